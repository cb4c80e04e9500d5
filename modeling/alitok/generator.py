"""The autoregressive generator: a decoder-only transformer over [class, code 0, code 1, ...]."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modeling.interfaces import GENERATORS, CodeLayout, GeneratorLoss, Progress
from modeling.layers.attention import attention
from modeling.layers.head_norms import HeadNorms, split_heads
from modeling.layers.kv_cache import KeyValueCache, LayerCache
from modeling.layers.norms import RMSNorm, SwiGLU
from modeling.layers.precision import at_least_float32
from modeling.layers.rope import rotary_table, rotation_factors
from modeling.layers.run_blocks import run_blocks
from utils.config import option

INIT_STD = 0.02
CODE_ORDERS = ("raster", "reversed", "shuffled")


@dataclass
class GeneratorConfig:
    """Settings of AliTok's generator. The defaults are AliTok-B's."""

    name: str = option("alitok", "registered generator")
    hidden_size: int = option(768, "channels", min=1)
    num_hidden_layers: int = option(24, "blocks", min=1)
    num_attention_heads: int = option(16, "attention heads", min=1)
    dropout: float = option(0.1, "dropout of attention and MLP outputs", min=0, below=1)
    attn_drop: float = option(0.1, "dropout of attention weights", min=0, below=1)
    tok_dropout: float = option(0.1, "dropout of embeddings", min=0, below=1)
    class_label_dropout: float = option(0.1, "share of images trained without their class, for guidance", min=0, max=1)
    image_seq_len: int | None = option(None, "codes an image; null: as many as the tokenizer says", min=1)
    code_order: str = option("raster", "order of prediction; shuffled: one fixed random order", choices=CODE_ORDERS)
    condition_num_classes: int = option(1000, "number of classes", min=1)
    randomize_temperature: float = option(1.0, "sampling temperature", min=0)
    guidance_scale: float = option(16.0, "guidance scale at the last code; 0: no guidance")
    guidance_scale_pow: float = option(1.8, "power of the guidance schedule; larger: the scale stays low longer")
    use_checkpoint: bool = option(False, "recompute activations in the backward pass: less memory, more time")
    seed: int = option(42, "seed of the sampling noise", min=0, below=2**63)


def order_of_codes(name: str, num_codes: int) -> Tensor | None:
    """The places (T,) int64 of the codes in the order drawn; None for the tokenizer's own order."""
    if name == "raster":
        return None
    if name == "reversed":
        return torch.arange(num_codes).flip(0)
    return torch.randperm(num_codes, generator=torch.Generator().manual_seed(0))


class Attention(nn.Module):
    """Causal self-attention with normalised, rotated queries and keys."""

    def __init__(self, config: GeneratorConfig):
        super().__init__()
        width = config.hidden_size
        self.head_width = width // config.num_attention_heads
        self.attn_drop = config.attn_drop
        self.qkv = nn.Linear(width, 3 * width)
        self.q_norm = RMSNorm(self.head_width)
        self.k_norm = RMSNorm(self.head_width)
        self.proj = nn.Linear(width, width)
        self.dropout = nn.Dropout(config.dropout)

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x: (B, L, width) -> q, k, v without norms and rotation, each (B, heads, L, head_width)."""
        return split_heads(self.qkv(x), self.head_width)

    def norms(self, rope: Tensor) -> HeadNorms:
        """rope: (L, 2, head_width)."""
        return HeadNorms(self.q_norm, self.k_norm, rope)

    def output(self, attended: Tensor) -> Tensor:
        """attended: (B, heads, L, head_width) -> (B, L, width)."""
        return self.dropout(self.proj(attended.transpose(1, 2).flatten(2)))


class Block(nn.Module):
    """Pre-norm block in two halves, because a decoder compiles them and lets the cache do what is between them."""

    def __init__(self, config: GeneratorConfig):
        super().__init__()
        self.norm1 = RMSNorm(config.hidden_size)
        self.attn = Attention(config)
        self.norm2 = RMSNorm(config.hidden_size)
        self.mlp = SwiGLU(config.hidden_size, config.dropout)

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.attn.heads(self.norm1(x))

    def before_attention(self, x: Tensor, rope: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = self.heads(x)
        return *self.attn.norms(rope)(q, k), v

    def after_attention(self, x: Tensor, attended: Tensor) -> Tensor:
        x = x + self.attn.output(attended)
        return x + self.mlp(self.norm2(x))

    def forward(self, x: Tensor, rope: Tensor, cache: LayerCache | None = None) -> Tensor:
        """x: (B, L, width), rope: (L, 2, head_width). With a cache, x continues the positions in it."""
        if cache is None:
            q, k, v = self.before_attention(x, rope)
            attended = attention(q, k, v, causal=True, dropout=self.attn.attn_drop if self.training else 0.0)
        else:
            attended = cache.attend(*self.heads(x), self.attn.norms(rope))
        return self.after_attention(x, attended)


@GENERATORS.register("alitok", GeneratorConfig)
class AliTokGenerator(nn.Module):
    """Next-code transformer. The rows of the embedding table are the codes, one unused row, the classes
    and "no class"."""

    decoding = "autoregressive"
    num_special = 1  # the class
    loss_unit = "nats per code"
    loss_noise = 0
    # Kept in float32: guidance amplifies rounding of the logits by up to guidance_scale.
    float32_parts = ("norm", "output")
    class_tables = ("embeddings.weight",)

    def __init__(self, config: GeneratorConfig, layout: CodeLayout):
        super().__init__()
        width, heads = config.hidden_size, config.num_attention_heads
        if width % heads:
            raise ValueError(f"hidden_size {width} is not a multiple of num_attention_heads {heads}")
        if config.image_seq_len not in (None, layout.num_codes):
            raise ValueError(f"image_seq_len is {config.image_seq_len}, the tokenizer has {layout.num_codes} codes")
        self.config = config
        self.layout = layout
        self.num_classes = config.condition_num_classes
        self.embeddings = nn.Embedding(layout.codebook_size + 1 + self.num_classes + 1, width)
        self.tok_dropout = nn.Dropout(config.tok_dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(width)
        self.output = nn.Linear(width, layout.codebook_size)
        # On the CPU even if the model is built on the meta device: no file holds this buffer.
        with torch.device("cpu"):
            order = order_of_codes(config.code_order, layout.num_codes)
            table = rotary_table(layout, width // heads)
            if order is not None:  # a code keeps its place in the image
                table = torch.cat([table[:1], table[1:][order]])
        self.register_buffer("order", order, persistent=False)
        self.register_buffer("rope", rotation_factors(table), persistent=False)
        self.apply(self._init)
        nn.init.zeros_(self.output.weight)

    @staticmethod
    def _init(module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=INIT_STD)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)

    def embed_classes(self, class_ids: Tensor) -> Tensor:
        """class_ids: (B,) in [0, num_classes], the last one is "no class" -> (B, width)."""
        return self.embeddings(class_ids + self.layout.codebook_size + 1)

    def forward(self, codes: Tensor, class_ids: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        """Logits of the next code at each position.

        codes: (B, n) with 0 <= n <= T, in the order drawn; class_ids: (B,). The class token goes before the
        first code, so the result is (B, n + 1, K) and entry t predicts code t. With a filled cache the codes
        continue it and the result is (B, n, K).
        In training mode class labels are dropped with probability class_label_dropout.
        """
        start = 0 if cache is None else cache.length
        if self.training and self.config.class_label_dropout:
            dropped = torch.rand(class_ids.shape, device=class_ids.device) < self.config.class_label_dropout
            class_ids = class_ids.masked_fill(dropped, self.num_classes)
        x = self.embeddings(codes)
        if start == 0:
            x = torch.cat([self.embed_classes(class_ids)[:, None], x], dim=1)
        x = self.tok_dropout(at_least_float32(x))  # residuals stay float32: half precision is for what blocks add
        rope = self.rope[slice(0, x.shape[1]) if cache is None else cache.positions(x.shape[1])]
        if cache is None:
            x = run_blocks(self.blocks, x, rope, recompute=self.config.use_checkpoint and self.training)
        else:
            for block, layer in zip(self.blocks, cache.layers, strict=True):
                x = block(x, rope, layer)
            cache.advance(x.shape[1])
        return self.output(self.norm(x))

    # -- training: modeling.interfaces.Generator --------------------------------------------------------

    def loss(
        self, codes: Tensor, class_ids: Tensor, progress: Progress | None = None, noise: Tensor | None = None
    ) -> GeneratorLoss:
        """Mean cross-entropy in nats per code, and top-1 accuracy.

        codes: (B, T), class_ids: (B,). The last code is a target only, never an input.
        """
        codes = codes if self.order is None else codes[:, self.order]
        logits = self(codes[:, :-1], class_ids).float()
        hits = (logits.detach().argmax(-1) == codes).float()
        value = F.cross_entropy(logits.flatten(0, 1), codes.flatten())
        return GeneratorLoss(value, hits.mean(), self.in_tokenizer_order(hits))

    def decays(self, name: str, parameter: Tensor) -> bool:
        """Matrices only: not biases, norms and embeddings."""
        return parameter.ndim >= 2 and not name.startswith("embeddings.")

    def forward_flops(self) -> int:
        """Two operations per weight of a linear layer and position, and two per score and channel in each
        product of attention. Attention is causal, so half of the score matrix counts."""
        length = self.layout.num_codes
        weights = sum(m.weight.numel() for m in self.modules() if isinstance(m, nn.Linear))
        attention_products = len(self.blocks) * self.config.hidden_size * length * (length + 1)
        return 2 * weights * length + 2 * attention_products

    # -- decoding: modeling.interfaces.AutoregressiveGenerator ------------------------------------------

    def new_cache(self, class_ids: Tensor, precision: str | None = None) -> KeyValueCache:
        head_width, weight = self.blocks[0].attn.head_width, self.embeddings.weight
        shape = (len(self.blocks), len(class_ids), self.config.num_attention_heads, self.layout.num_codes, head_width)
        return KeyValueCache(*shape, precision, dtype=weight.dtype, device=weight.device)

    def in_tokenizer_order(self, codes: Tensor) -> Tensor:
        """codes: (B, T) in the order drawn."""
        return codes if self.order is None else codes[:, self.order.argsort()]

    def compiled_when_decoding(self) -> list[tuple[nn.Module, str]]:
        return [(block, name) for block in self.blocks for name in ("heads", "after_attention")]

    def prepare_position(self, class_ids: Tensor, cache: KeyValueCache) -> None:
        """A position needs nothing but codes, keys and values."""
