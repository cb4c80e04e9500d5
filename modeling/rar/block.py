"""RAR's transformer block: pre-norm, with an adaptive norm (AdaLN-zero, arXiv:2212.09748) at every position."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modeling.layers.attention import attention
from modeling.layers.head_norms import HeadNorms, split_heads
from modeling.layers.kv_cache import LayerCache
from modeling.layers.norms import LayerNorm
from modeling.layers.precision import at_least_float32
from modeling.rar.settings import RARConfig

NORM_EPS = 1e-6
BLOCK_MODULATIONS = 6  # shift, scale and gate of attention, then of the MLP


def adaptive_layer(width: int, parts: int) -> nn.Sequential:
    """Conditions (..., width) -> modulations (..., parts * width)."""
    return nn.Sequential(nn.SiLU(), nn.Linear(width, parts * width))


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x (1 + scale) + shift, in the precision of x: half precision would round 1 + scale."""
    return torch.addcmul(x, x, scale.type_as(x)) + shift


class Attention(nn.Module):
    """Causal self-attention with normalised queries and keys."""

    def __init__(self, config: RARConfig):
        super().__init__()
        width = config.hidden_size
        self.head_width = width // config.num_attention_heads
        self.attn_drop = config.attn_drop
        self.qkv = nn.Linear(width, 3 * width)
        self.q_norm = LayerNorm(self.head_width, NORM_EPS)
        self.k_norm = LayerNorm(self.head_width, NORM_EPS)
        self.proj = nn.Linear(width, width)
        self.dropout = nn.Dropout(config.dropout)

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x: (B, L, width) -> q, k, v without norms, each (B, heads, L, head_width)."""
        return split_heads(self.qkv(x), self.head_width)

    def norms(self) -> HeadNorms:
        return HeadNorms(self.q_norm, self.k_norm)

    def output(self, attended: Tensor) -> Tensor:
        """attended: (B, heads, L, head_width) -> (B, L, width)."""
        return self.dropout(self.proj(attended.transpose(1, 2).flatten(2)))


class MLP(nn.Module):
    def __init__(self, config: RARConfig):
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.fc2(self.dropout(F.gelu(self.fc1(x)))))


class Block(nn.Module):
    """In two halves, because a decoder compiles them and lets the cache do what is between them."""

    def __init__(self, config: RARConfig):
        super().__init__()
        self.norm1 = LayerNorm(config.hidden_size, NORM_EPS)
        self.attn = Attention(config)
        self.norm2 = LayerNorm(config.hidden_size, NORM_EPS)
        self.mlp = MLP(config)
        self.adaLN_modulation = adaptive_layer(config.hidden_size, BLOCK_MODULATIONS)

    def heads(self, x: Tensor, modulation: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        shift, scale, *_ = modulation.chunk(BLOCK_MODULATIONS, dim=-1)
        return self.attn.heads(modulate(self.norm1(x), shift, scale).type_as(self.norm1.weight))

    def before_attention(self, x: Tensor, modulation: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = self.heads(x, modulation)
        return *self.attn.norms()(q, k), v

    def after_attention(self, x: Tensor, attended: Tensor, modulation: Tensor) -> Tensor:
        _, _, attention_gate, shift, scale, mlp_gate = modulation.chunk(BLOCK_MODULATIONS, dim=-1)
        x = x + attention_gate * self.attn.output(attended)
        return x + mlp_gate * self.mlp(modulate(self.norm2(x), shift, scale).type_as(self.norm2.weight))

    def modulation(self, condition: Tensor) -> Tensor:
        """condition: (B, L, width) -> (B, L, 6 width)."""
        return self.adaLN_modulation(condition.type_as(self.norm1.weight))

    def forward(
        self, x: Tensor, condition: Tensor | None, cache: LayerCache | None = None, kept: Tensor | None = None
    ) -> Tensor:
        """x: (B, L, width); condition: (B, L, width). With a cache, x continues the positions in it.

        kept: (B, n, 6 width). If condition is None, n = L and these are the modulations. Else condition is
        (B, L', width) with L' >= L, and the last n of its modulations are written to `kept`.
        """
        modulation = kept if condition is None else self.modulation(condition)
        if kept is not None and condition is not None:
            kept.copy_(modulation[:, -kept.shape[1] :])
        modulation = modulation[:, : x.shape[1]]
        if cache is None:
            q, k, v = self.before_attention(x, modulation)
            attended = attention(q, k, v, causal=True, dropout=self.attn.attn_drop if self.training else 0.0)
        else:
            attended = cache.attend(*self.heads(x, modulation), self.attn.norms())
        return self.after_attention(x, attended, modulation)


class FinalNorm(nn.Module):
    """The adaptive norm before the logits."""

    def __init__(self, width: int):
        super().__init__()
        self.adaLN_modulation = adaptive_layer(width, 2)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """x, condition: (B, L, width) -> (B, L, width). Scale comes before shift here, unlike in the blocks."""
        scale, shift = self.adaLN_modulation(condition).chunk(2, dim=-1)
        return modulate(F.layer_norm(at_least_float32(x), x.shape[-1:], eps=NORM_EPS), shift, scale)
