"""Spread models over ranks with FSDP2, and gather their full states for checkpoints.

A checkpoint is the same whether a run was sharded or not: full tensors, optimizer states by parameter
name. A run may be resumed with or without sharding, on any number of processes.
"""

import os
from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from utils.errors import UserError

MESH = ("copies", "parts")  # HSDP: each copy of the weights is spread over the ranks of its row


def group_size(setting: int | None, world_size: int, environment: Mapping[str, str]) -> int:
    """Processes that share one copy of the weights. setting: training.fsdp_group; None: those of a machine, but
    all if a machine has only one, because one process can share nothing.

    Raises UserError if the processes cannot be split into such groups.
    """
    size = setting or int(environment.get("LOCAL_WORLD_SIZE") or world_size)
    if setting is None and (size == 1 or world_size % size):  # one GPU a machine, or machines of different sizes
        return world_size
    if world_size % size == 0:
        return size
    raise UserError(f"training.fsdp_group is {setting}, but {world_size} processes cannot be split into such groups")


def shard(
    model: nn.Module,
    blocks: Iterable[nn.Module],
    device_type: str,
    dtype: torch.dtype | None = None,
    group: int | None = None,
) -> None:
    """Give each rank of a group a part of every parameter; blocks are gathered one by one when they run.

    Weights are gathered inside a group, and gradients averaged over all ranks (HSDP). group: `group_size`.

    The model may be on the CPU: each block moves to the device when it is sharded.
    dtype: of the gathered weights. Gradients are averaged in float32; activations between blocks keep their dtype.
    """
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    world_size = dist.get_world_size()
    size = group_size(group, world_size, os.environ)
    shape, names = ((world_size,), ("parts",)) if size == world_size else ((world_size // size, size), MESH)
    mesh = init_device_mesh(device_type, shape, mesh_dim_names=names)
    for module in (*blocks, model):
        fully_shard(module, mesh=mesh, mp_policy=policy)


def gather_full(value: Any) -> Any:
    """All-gather a DTensor (collective); other values pass through."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def full_state(model: nn.Module, keep: bool = True) -> dict[str, Tensor]:
    """The full state dict on the CPU; collective for sharded models. keep: false on ranks that do not need it."""
    result = {}
    for name, value in model.state_dict().items():
        full = gather_full(value)
        if keep:
            result[name] = full.detach().cpu()
    return result


def _parameter_names(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[str]:
    """Names of the optimizer's parameters in the order in which it numbers them."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [names[id(p)] for group in optimizer.param_groups for p in group["params"]]


def optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer, keep: bool = True) -> dict[str, Any]:
    """The optimizer's full state by parameter name, on the CPU; collective for sharded models."""
    for module in model.modules():
        # A forward without backward leaves blocks unsharded; reshard so that parameters match the optimizer's.
        if isinstance(module, FSDPModule):
            module.reshard()
    names, state = _parameter_names(model, optimizer), optimizer.state_dict()
    result: dict[str, Any] = {"state": {}, "param_groups": []}
    for number, values in state["state"].items():
        full = {key: gather_full(value) for key, value in values.items()}
        if keep:
            result["state"][names[number]] = {
                key: value.detach().cpu() if isinstance(value, Tensor) else value for key, value in full.items()
            }
    for group in state["param_groups"]:
        result["param_groups"].append({**group, "params": [names[number] for number in group["params"]]})
    return result


def load_optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load what `optimizer_state` returned; every rank has all of it and keeps its part.

    Learning rate, betas and weight decay stay the optimizer's own, so that a resumed run may change them.
    Raises ValueError if the state belongs to other parameters.
    """
    names, parameters = _parameter_names(model, optimizer), dict(model.named_parameters())
    numbers = {name: number for number, name in enumerate(names)}
    listed = [name for group in state["param_groups"] for name in group["params"]]
    if listed != names:
        raise ValueError("the optimizer's state belongs to other parameters")

    def own_part(name: str, value: Any) -> Any:
        parameter = parameters[name]
        if isinstance(parameter, DTensor) and isinstance(value, Tensor) and value.shape == parameter.shape:
            return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)
        return value

    optimizer.load_state_dict(
        {
            "state": {
                numbers[name]: {key: own_part(name, value) for key, value in values.items()}
                for name, values in state["state"].items()
            },
            "param_groups": optimizer.state_dict()["param_groups"],
        }
    )
