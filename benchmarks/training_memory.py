"""Peak memory of an AR training step on a GPU, counted without a GPU.

The forward pass runs on fake CUDA tensors, which have shapes and no data, with the operators of a GPU. The tensors
alive at its end are those that backward needs. The result is an upper bound of the tensors in PyTorch's allocator at
one time. Gaps between its blocks, CUDA's context and NCCL's buffers (1 to 2 GiB) come on top.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from modeling.build import build_generator, code_layout
from train_generator.config import ARConfig

BYTES_PER_WEIGHT = 4 * 4  # float32: the weight, its gradient, AdamW's two moments
CAPABILITY = (9, 0)  # of the pretended GPU
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class AliveTensors(TorchDispatchMode):
    """Counts the bytes of tensors made inside it and not yet freed, each storage once."""

    def __init__(self):
        super().__init__()
        self._storages: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        given = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in given:
                storage = tensor.untyped_storage()
                self._storages[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
                self.made(storage.nbytes())
        return result

    def made(self, size: int) -> None:
        """Called with the bytes of each new storage."""

    def alive(self) -> int:
        self._storages = {key: entry for key, entry in self._storages.items() if not entry[0].expired()}
        return sum(size for _, size in self._storages.values())


@dataclass(frozen=True)
class StepMemory:
    """Bytes of one optimizer step with one micro-batch."""

    state: int  # weights, gradients, moments, moving average
    kept: int  # from forward to backward: activations, and the weights in autocast's precision
    backward: int  # made by backward on top: gradients of the float32 logits, or a recomputed block

    @property
    def total(self) -> int:
        return self.state + self.kept + self.backward


def flash_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
) -> Tensor:
    if attn_mask is not None:  # which FlashAttention does not take
        mask = attn_mask.to(q.dtype).expand(*q.shape[:3], k.shape[2])
        return torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, mask, False)[0]
    return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, dropout_p, is_causal)[0]


@contextmanager
def pretended_cuda(precision: str) -> Iterator[None]:
    """Fake tensors, autocast and the attention kernel of a GPU, on a machine without one.

    Inside the block, modules that `on_pretended_cuda` moved compute shapes and devices, forward only. Tensors on
    two devices in one operation raise an error. So does an operation that would wait for a value from the GPU.
    """
    attention, autocast = F.scaled_dot_product_attention, torch.is_autocast_enabled("cuda")
    capability, torch.cuda.get_device_capability = torch.cuda.get_device_capability, lambda device=None: CAPABILITY
    dtype = torch.get_autocast_dtype("cuda")
    try:
        F.scaled_dot_product_attention = flash_attention  # the choice of a kernel would ask the GPU
        if precision in AUTOCAST:  # torch.autocast refuses without a GPU
            torch.set_autocast_dtype("cuda", AUTOCAST[precision])
            torch.set_autocast_enabled("cuda", True)
        with FakeTensorMode(allow_non_fake_inputs=True):
            yield
    finally:
        F.scaled_dot_product_attention = attention
        torch.cuda.get_device_capability = capability
        torch.set_autocast_enabled("cuda", autocast)
        torch.set_autocast_dtype("cuda", dtype)
        torch.clear_autocast_cache()


def on_pretended_cuda(module: torch.nn.Module) -> torch.nn.Module:
    """`module` with new parameters and buffers of the same shapes, because `Module.to` does not take fake tensors."""
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            setattr(part, name, torch.nn.Parameter(torch.empty_like(parameter, device="cuda"), parameter.requires_grad))
        for name, buffer in part.named_buffers(recurse=False):
            setattr(part, name, torch.empty_like(buffer, device="cuda"))
    return module


def count_memory(config: ARConfig, batch_size: int) -> StepMemory:
    """Memory of a step of `batch_size` images per GPU, without FSDP and without compilation, which would keep less."""
    with torch.device("meta"):
        generator = build_generator(config.model.generator, code_layout(config.model.vq_model)).train()
    with pretended_cuda(config.training.mixed_precision):
        on_pretended_cuda(generator)
        codes = torch.zeros(batch_size, generator.layout.num_codes, dtype=torch.int64, device="cuda")
        class_ids = torch.zeros(batch_size, dtype=torch.int64, device="cuda")
        return count_forward(generator, codes, class_ids, average=config.training.use_ema)


def count_forward(generator: torch.nn.Module, codes: Tensor, class_ids: Tensor, *, average: bool) -> StepMemory:
    """Run the forward pass of a batch and count. generator: in training mode; an AliTokGenerator to count
    `use_checkpoint`."""
    weights = sum(p.numel() for p in generator.parameters())
    noise = torch.zeros(len(codes), generator.loss_noise, dtype=torch.float64, device=codes.device)
    with AliveTensors() as tensors:
        result = generator.loss(codes, class_ids, None, noise)
        kept = tensors.alive()
    del result
    backward = 2 * codes.numel() * generator.layout.codebook_size * 4  # of the log-softmax's output and of its input
    if generator.config.use_checkpoint:
        x = torch.empty(*codes.shape, generator.config.hidden_size, device=codes.device, requires_grad=True)
        with AliveTensors() as tensors:
            result = generator.blocks[0](x, generator.rope[: codes.shape[1]])
            backward = max(backward, tensors.alive())
        del result
    return StepMemory(weights * (BYTES_PER_WEIGHT + 4 * average), kept, backward)
