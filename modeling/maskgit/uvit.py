"""`UViT` (Bao et al., "All are Worth Words", arXiv:2209.12152): each block of the second half sees the output
of its counterpart in the first half."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modeling.interfaces import CodeLayout
from modeling.layers.attention import attention
from modeling.layers.norms import LayerNorm
from modeling.layers.precision import at_least_float32
from modeling.layers.run_blocks import run_blocks
from modeling.maskgit.masked_transformer import INIT_STD, MaskedTransformer, take_rows
from modeling.maskgit.settings import MaskGITConfig

NORM_EPS = 1e-5


class Attention(nn.Module):
    def __init__(self, width: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, rows: Tensor | None) -> Tensor:
        """x: (B, L, width) -> what its `rows` (B, n) attend to, by default all: (B, n, width)."""
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        q, k, v = (t.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for t in (take_rows(q, rows), k, v))
        return self.proj(attention(q, k, v, causal=False).transpose(1, 2).flatten(2))


class MLP(nn.Module):
    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """Pre-norm block."""

    def __init__(self, config: MaskGITConfig):
        super().__init__()
        width = config.hidden_size
        self.norm1 = LayerNorm(width, NORM_EPS)
        self.attn = Attention(width, config.num_attention_heads)
        self.norm2 = LayerNorm(width, NORM_EPS)
        self.mlp = MLP(width, config.intermediate_size)

    def forward(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        """x: (B, L, width) -> the same, or only its `rows` (B, n): (B, n, width)."""
        dtype = self.norm1.weight.dtype  # that of the weights: x stays float32
        x = take_rows(x, rows) + self.attn(self.norm1(x).to(dtype), rows)
        return x + self.mlp(self.norm2(x).to(dtype))


class SkipBlock(Block):
    """A block of the second half."""

    def __init__(self, config: MaskGITConfig):
        super().__init__(config)
        self.skip_linear = nn.Linear(2 * config.hidden_size, config.hidden_size)

    def forward(self, x: Tensor, skip: Tensor, rows: Tensor | None = None) -> Tensor:
        """skip: (B, L, width), the output of a block of the first half."""
        both = torch.cat([x, skip], dim=-1).to(self.norm1.weight.dtype)
        return super().forward(at_least_float32(self.skip_linear(both)), rows)


class UViT(MaskedTransformer):
    # Kept in float32: guidance amplifies rounding of the logits by up to guidance_scale.
    float32_parts = ("norm", "lm_head")
    class_tables = ("embeddings.weight",)

    def __init__(self, config: MaskGITConfig, layout: CodeLayout):
        super().__init__(config, layout)
        if config.num_hidden_layers % 2:
            raise ValueError(f"num_hidden_layers {config.num_hidden_layers} is odd, UViT has two equal halves")
        width, half = config.hidden_size, config.num_hidden_layers // 2
        self.pos_embed = nn.Parameter(torch.empty(1, self.length, width))
        self.embeddings = nn.Embedding(self.vocabulary, width)
        self.in_blocks = nn.ModuleList(Block(config) for _ in range(half))
        self.mid_block = Block(config)
        self.out_blocks = nn.ModuleList(SkipBlock(config) for _ in range(half))
        self.norm = LayerNorm(width, NORM_EPS)
        self.lm_head = nn.Linear(width, layout.codebook_size)
        self._init()

    def _init(self) -> None:
        """Published as a normal truncated at -2 and 2, which is 100 deviations away: a normal."""
        nn.init.normal_(self.pos_embed, std=INIT_STD)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=INIT_STD)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    @property
    def blocks(self) -> list[nn.Module]:
        return [*self.in_blocks, self.mid_block, *self.out_blocks]

    def logits(self, tokens: Tensor, rows: Tensor | None) -> Tensor:
        recompute = self.config.use_checkpoint and self.training
        x, skips = at_least_float32(self.embeddings(tokens)) + self.pos_embed, []
        for block in self.in_blocks:
            x = run_blocks([block], x, recompute=recompute)
            skips.append(x)
        x = run_blocks([self.mid_block], x, recompute=recompute)
        for block in self.out_blocks:
            wanted = rows if block is self.out_blocks[-1] else None
            x = run_blocks([block], x, skips.pop(), wanted, recompute=recompute)
        return self.lm_head(self.norm(x if rows is not None else x[:, 1:]))
