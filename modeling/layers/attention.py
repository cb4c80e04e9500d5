"""Softmax attention of a whole sequence, by the fastest kernel for its device. This file chooses the kernel."""

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

# Up to this many positions materialised scores are faster in float32 training on a CPU (docs/benchmarks.md).
MAX_MATERIALISED_LENGTH = 128

HOPPER = (9, 0)
MIN_CUDNN = 91501  # cuDNN 9.15.1: older ones are wrong for lengths that are no multiples of 128
WITHOUT_CUDNN = (SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH)
NAMES = {
    SDPBackend.CUDNN_ATTENTION: "cuDNN",
    SDPBackend.FLASH_ATTENTION: "FlashAttention",
    SDPBackend.EFFICIENT_ATTENTION: "memory-efficient",
    SDPBackend.MATH: "materialised",
}


def choose_kernels(
    capability: tuple[int, int], cudnn: int, *, dropout: bool, growing: bool = False
) -> tuple[SDPBackend, ...]:
    """The kernels that PyTorch may use on a GPU; of these it takes the one it prefers for shapes and dtype.

    capability: of the GPU, (9, 0) is Hopper; cudnn: version as `torch.backends.cudnn.version` gives it, 0: none;
    growing: whether the number of keys differs from call to call.
    cuDNN's kernel is left out
    - with dropout: it rounds the probability to sixteenths, and PyTorch before 2.12 uses it all the same;
    - for growing lengths: it compiles a plan for each of them;
    - before 9.15.1, and on all but Hopper, where PyTorch does not prefer it or it has faults (pytorch#169849, #193893).
    """
    if dropout or growing or capability != HOPPER or cudnn < MIN_CUDNN:
        return WITHOUT_CUDNN
    return (SDPBackend.CUDNN_ATTENTION, *WITHOUT_CUDNN)


@torch.compiler.assume_constant_result
def _kernel_names(device_index: int, dropout: bool, growing: bool) -> tuple[str, ...]:
    """`choose_kernels` for a GPU of this machine, by name: dynamo can keep names as constants, not the enum."""
    return _names(device_index, dropout, growing)


@cache  # dynamo would look through it
def _names(device_index: int, dropout: bool, growing: bool) -> tuple[str, ...]:
    facts = torch.cuda.get_device_capability(device_index), torch.backends.cudnn.version() or 0
    return tuple(kernel.name for kernel in choose_kernels(*facts, dropout=dropout, growing=growing))


def describe_kernels(device: torch.device) -> str:
    """A line about the choice for one device, for the log of a training."""
    if device.type != "cuda":
        return "attention: PyTorch's kernel for CPUs; scores are materialised where that is faster in training"
    choices = [_kernel_names(device.index or 0, dropout, False) for dropout in (True, False)]
    with_dropout, without = (", ".join(NAMES[SDPBackend.__members__[name]] for name in names) for names in choices)
    return (
        f"attention: {with_dropout} with dropout; {without} without; PyTorch chooses among these (torch"
        f" {torch.__version__}, cuDNN {torch.backends.cudnn.version()})"
    )


def attention(q: Tensor, k: Tensor, v: Tensor, *, causal: bool, dropout: float = 0.0) -> Tensor:
    """Softmax attention with scores scaled by head_width^-0.5.

    q, k, v: (B, heads, L, head_width). Returns the same shape and dtype. dropout: of the weights, in [0, 1).
    """
    trains_on_cpu = q.device.type == "cpu" and q.requires_grad
    if trains_on_cpu and (dropout or q.dtype == torch.bfloat16 or q.shape[2] <= MAX_MATERIALISED_LENGTH):
        return materialised_attention(q, k, v, causal=causal, dropout=dropout)
    return fused_attention(q, k, v, causal=causal, dropout=dropout)


def fused_attention(
    q: Tensor, k: Tensor, v: Tensor, *, causal: bool, dropout: float = 0.0, growing: bool = False
) -> Tensor:
    """`attention` by one of PyTorch's kernels. q may have fewer positions than k and v; growing: `choose_kernels`."""
    if q.device.type != "cuda":
        return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=causal)
    names = _kernel_names(q.device.index, dropout > 0, growing)
    with sdpa_kernel([SDPBackend.__members__[name] for name in names]):
        return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=causal)


def weighted_attention(q: Tensor, k: Tensor, v: Tensor, *, visible: Tensor, factors: Tensor) -> Tensor:
    """Attention with factors of the weights after the softmax, which do not add up to 1 then.

    q: (B, heads, n, head_width); k, v: (B, heads, m, head_width). visible: bool, factors: float32, both broadcast to
    (B, n, m): whether a query sees a key, and the factor. Returns the shape and dtype of q.
    """
    scores = (q.float() @ k.float().mT * q.shape[-1] ** -0.5).masked_fill(~visible, -torch.inf)
    return (scores.softmax(-1) * factors[:, None] @ v.float()).type_as(q)


def materialised_attention(q: Tensor, k: Tensor, v: Tensor, *, causal: bool, dropout: float = 0.0) -> Tensor:
    """`attention` with the scores as a tensor, for training on CPUs.

    PyTorch's fused kernel for CPUs does not support dropout. Its backward pass is slow in bfloat16, and for
    short sequences: their scores fit into the processor's cache.
    In bfloat16 the scores are rounded; their softmax is computed in float32.
    """
    queries, keys, values = (x.flatten(0, 1) for x in (q, k, v))
    scale = q.shape[3] ** -0.5
    mask = q.new_full((q.shape[2], k.shape[2]), float("-inf") if causal else 0.0).triu(1)
    scores = torch.baddbmm(mask, queries, keys.transpose(1, 2), alpha=scale)
    weights = F.dropout(scores.softmax(-1), dropout)
    return (weights @ values).unflatten(0, q.shape[:2])
