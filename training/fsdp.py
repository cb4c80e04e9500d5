"""Models spread over ranks with FSDP2, and their states in full, as checkpoints hold them.

A checkpoint is the same whether a run was sharded or not: full tensors, optimizer states by the names
of their parameters. One may be resumed as the other, on any number of processes.
"""

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor


def shard(
    model: nn.Module,
    blocks: Iterable[nn.Module],
    device_type: str,
    methods: tuple[str, ...] = (),
    dtype: torch.dtype | None = None,
) -> None:
    """Give each rank its part of every parameter, gathered block by block when it is needed.

    The model may lie on the CPU: each block moves to the device when its turn comes.
    methods: names of methods beside `forward` that use the parameters, of the model and its blocks.
    dtype: what gathered weights are in, which go over the network and stay for the backward; gradients
    are averaged in float32 whatever it is, and what lies between the blocks keeps its dtype.
    """
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    mesh = init_device_mesh(device_type, (dist.get_world_size(),))
    for module in (*blocks, model):
        fully_shard(module, mesh=mesh, mp_policy=policy)
        for method in methods:
            if hasattr(module, method):
                register_fsdp_forward_method(module, method)


def full(value: Any) -> Any:
    """The whole of a tensor of which this rank has a part; every rank must call it. Others as they are."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def full_state(model: nn.Module, keep: bool = True) -> dict[str, Tensor]:
    """The state dict, whole, on the CPU; collective for sharded models. `keep` on the ranks that want it."""
    result = {}
    for name, value in model.state_dict().items():
        whole = full(value)
        if keep:
            result[name] = whole.detach().cpu()
    return result


def _parameter_names(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[str]:
    """Names of the optimizer's parameters in the order in which it numbers them."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [names[id(p)] for group in optimizer.param_groups for p in group["params"]]


def optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer, keep: bool = True) -> dict[str, Any]:
    """The optimizer's state by names of parameters, whole, on the CPU; collective for sharded models."""
    for module in model.modules():  # after a forward alone some weights are whole, and not the optimizer's
        if isinstance(module, FSDPModule):
            module.reshard()
    names, state = _parameter_names(model, optimizer), optimizer.state_dict()
    result: dict[str, Any] = {"state": {}, "param_groups": []}
    for number, values in state["state"].items():
        whole = {key: full(value) for key, value in values.items()}
        if keep:
            result["state"][names[number]] = {
                key: value.detach().cpu() if isinstance(value, Tensor) else value for key, value in whole.items()
            }
    for group in state["param_groups"]:
        result["param_groups"].append({**group, "params": [names[number] for number in group["params"]]})
    return result


def load_optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Take over what `optimizer_state` gave; every rank has the whole of it and keeps its part.

    Learning rate, betas and weight decay stay the optimizer's own: they may be changed on the way.
    Raises ValueError if it belongs to other parameters.
    """
    names, parameters = _parameter_names(model, optimizer), dict(model.named_parameters())
    numbers = {name: number for number, name in enumerate(names)}
    listed = [name for group in state["param_groups"] for name in group["params"]]
    if listed != names:
        raise ValueError("the optimizer's state is of other parameters")

    def part(name: str, value: Any) -> Any:
        parameter = parameters[name]
        if isinstance(parameter, DTensor) and isinstance(value, Tensor) and value.shape == parameter.shape:
            return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)
        return value

    optimizer.load_state_dict(
        {
            "state": {
                numbers[name]: {key: part(name, value) for key, value in values.items()}
                for name, values in state["state"].items()
            },
            "param_groups": optimizer.state_dict()["param_groups"],
        }
    )
