"""The pre-norm transformer block of the tokenizers' encoders and decoders."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modeling.layers.attention import attention
from utils.config import option


@dataclass
class TransformerConfig:
    width: int = option(768, "channels", min=1)
    num_layers: int = option(12, "blocks", min=1)
    num_heads: int = option(12, "attention heads", min=1)
    mlp_ratio: float = option(4.0, "hidden width of the MLPs over width", above=0)


def multi_head(qkv: Tensor, num_heads: int, causal: bool = False) -> Tensor:
    """qkv: (B, L, 3 width), in the order q, k, v with the heads inside each -> (B, L, width)."""
    batch, length, channels = qkv.shape
    qkv = qkv.view(batch, length, 3, num_heads, channels // (3 * num_heads))
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    return attention(q, k, v, causal=causal).transpose(1, 2).reshape(batch, length, channels // 3)


def require_heads_fit(width: int, num_heads: int) -> None:
    if width % num_heads:
        raise ValueError(f"width {width} is not a multiple of num_heads {num_heads}")


class Attention(nn.Module):
    """Multi-head self-attention with one fused input projection (order q, k, v)."""

    def __init__(self, width: int, num_heads: int, causal: bool = False):
        super().__init__()
        require_heads_fit(width, num_heads)
        self.num_heads = num_heads
        self.causal = causal
        self.in_proj = nn.Linear(width, 3 * width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, L, width) -> (B, L, width)."""
        return self.out_proj(multi_head(self.in_proj(x), self.num_heads, self.causal))


class TorchNamedAttention(nn.Module):
    """`Attention` with full attention, and with the names and initial weights of torch.nn.MultiheadAttention."""

    def __init__(self, width: int, num_heads: int):
        super().__init__()
        require_heads_fit(width, num_heads)
        self.num_heads = num_heads
        self.in_proj_weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(3 * width, width)))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, L, width) -> (B, L, width)."""
        return self.out_proj(multi_head(F.linear(x, self.in_proj_weight, self.in_proj_bias), self.num_heads))


class MLP(nn.Module):
    def __init__(self, width: int, mlp_ratio: float):
        super().__init__()
        hidden = int(width * mlp_ratio)
        self.c_fc = nn.Linear(width, hidden)
        self.c_proj = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(F.gelu(self.c_fc(x)))


class ResidualAttentionBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, width: int, attn: nn.Module, mlp_ratio: float = 4.0):
        """attn: from (B, L, width) to the same shape."""
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = attn
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = MLP(width, mlp_ratio)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, L, width) -> (B, L, width)."""
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


def init_weights(module: nn.Module, std: float | None) -> None:
    """Initialise one module of the tokenizer; for `model.apply`.

    Linear, convolution and embedding weights: normal with `std`, truncated at two std; None: with the inverse root of
    the number of inputs, so that outputs are about as large as inputs. Biases: 0. Norms keep their weights 1 and
    biases 0.
    """
    if isinstance(module, nn.Linear | nn.Conv2d | nn.Embedding):
        std = module.weight[0].numel() ** -0.5 if std is None else std
        nn.init.trunc_normal_(module.weight, std=std, a=-2 * std, b=2 * std)
        if getattr(module, "bias", None) is not None:
            nn.init.zeros_(module.bias)


def learned_tokens(count: int, width: int) -> nn.Parameter:
    """(count, width) learned tokens or positions, normal with std width^-0.5."""
    return nn.Parameter(width**-0.5 * torch.randn(count, width))
