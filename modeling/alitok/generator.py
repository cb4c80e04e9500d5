"""The autoregressive generator: a decoder-only transformer over [class, code 0, code 1, ...]."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from omegaconf import II
from torch import Tensor, nn

from modeling.interfaces import GENERATORS
from modeling.layers.attention import attention
from modeling.layers.norms import EAGER, attend, compiled, gate, rms_norm, split_heads
from modeling.layers.precision import at_least_float32
from modeling.layers.rope import rotary_table
from modeling.layers.run_blocks import run_blocks
from sampling.packed_linear import pack_linears
from utils.cpu import can_pack

INIT_STD = 0.02
SWIGLU_MULTIPLE = 256
CODE_ORDERS = ("raster", "reversed")


@dataclass
class GeneratorConfig:
    """Sizes and settings of the generator; the defaults are AliTok-B's."""

    name: str = "alitok"
    hidden_size: int = 768
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    dropout: float = 0.1
    attn_drop: float = 0.1
    tok_dropout: float = 0.1
    class_label_dropout: float = 0.1
    image_seq_len: int = 273
    code_order: str = "raster"
    condition_num_classes: int = 1000
    randomize_temperature: float = 1.0
    guidance_scale: float = 16.0
    guidance_scale_pow: float = 1.8
    use_checkpoint: bool = False
    seed: int = 42
    codebook_size: int = II("model.vq_model.codebook_size")


class RMSNorm(nn.Module):
    """Root-mean-square norm, computed in float32, in the weight's dtype."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight)


class SwiGLU(nn.Module):
    """w2(silu(w1 x) * w3 x), hidden width 8/3 of `width` rounded up to a multiple of 256."""

    def __init__(self, width: int, dropout: float):
        super().__init__()
        hidden = -(-int(8 * width / 3) // SWIGLU_MULTIPLE) * SWIGLU_MULTIPLE
        self.w1 = nn.Linear(width, hidden, bias=False)
        self.w3 = nn.Linear(width, hidden, bias=False)
        self.w2 = nn.Linear(hidden, width, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.w2(gate(self.w1(x), self.w3(x))))


class KeyValueCache:
    """Keys and values of all layers for a fixed number of rows and positions, allocated once."""

    def __init__(self, num_layers: int, rows: int, num_heads: int, length: int, head_width: int, **options):
        """options: dtype and device."""
        shape = (num_layers, rows, num_heads, length, head_width)
        self.keys = torch.empty(shape, **options)
        self.values = torch.empty(shape, **options)

    def append(self, layer: int, position: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store k and v (B, heads, 1, head_width) at `position`; everything up to there."""
        self.keys[layer, :, :, position] = k[:, :, 0]
        self.values[layer, :, :, position] = v[:, :, 0]
        return self.keys[layer, :, :, : position + 1], self.values[layer, :, :, : position + 1]

    def past(self, position: int) -> tuple[Tensor, Tensor]:
        """Keys and values of all layers before `position`: (layers, B, heads, position, head_width)."""
        return self.keys[..., :position, :], self.values[..., :position, :]

    def append_all(self, position: int, k: Tensor, v: Tensor) -> None:
        """Store k and v (layers, B, heads, 1, head_width) of all layers at `position`."""
        self.keys[..., position, :] = k[..., 0, :]
        self.values[..., position, :] = v[..., 0, :]


class Attention(nn.Module):
    """Causal self-attention with normalised, rotated queries and keys."""

    def __init__(self, config: GeneratorConfig):
        super().__init__()
        width = config.hidden_size
        self.num_heads = config.num_attention_heads
        self.head_width = width // self.num_heads
        self.attn_drop = config.attn_drop
        self.qkv = nn.Linear(width, 3 * width)
        self.q_norm = RMSNorm(self.head_width)
        self.k_norm = RMSNorm(self.head_width)
        self.proj = nn.Linear(width, width)
        self.dropout = nn.Dropout(config.dropout)

    def heads(self, x: Tensor, rope: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x: (B, L, width) -> queries, keys and values (B, heads, L, head_width)."""
        return split_heads(self.qkv(x), self.q_norm.weight, self.k_norm.weight, rope)

    def forward(self, x: Tensor, rope: Tensor) -> Tensor:
        """x: (B, L, width), rope: (L, head_width / 2, 2) -> (B, L, width)."""
        q, k, v = self.heads(x, rope)
        x = attention(q, k, v, causal=True, dropout=self.attn_drop if self.training else 0.0)
        return self.dropout(self.proj(x.transpose(1, 2).flatten(2)))


class Block(nn.Module):
    def __init__(self, config: GeneratorConfig):
        super().__init__()
        self.norm1 = RMSNorm(config.hidden_size)
        self.attn = Attention(config)
        self.norm2 = RMSNorm(config.hidden_size)
        self.mlp = SwiGLU(config.hidden_size, config.dropout)
        self.kernels = EAGER  # for `step`

    def forward(self, x: Tensor, rope: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x), rope)
        return x + self.mlp(self.norm2(x))

    def step(self, x: Tensor, rope: Tensor, cache: KeyValueCache, layer: int, position: int) -> Tensor:
        """`forward` at one position with the cached past. x: (B, 1, width), rope: (1, ...)."""
        kernels, attn, mlp = self.kernels, self.attn, self.mlp
        h = kernels.rms_norm(x, self.norm1.weight)
        q, k, v = kernels.split_heads(attn.qkv(h), attn.q_norm.weight, attn.k_norm.weight, rope)
        k, v = cache.append(layer, position, k, v)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x, h = kernels.add_rms_norm(x, attn.proj(attended), self.norm2.weight)
        return x + mlp.w2(kernels.gate(mlp.w1(h), mlp.w3(h)))

    def step_pure(self, x: Tensor, rope: Tensor, past_k: Tensor, past_v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`step` without writing to a cache. past_k, past_v: (B, heads, n, d).

        Returns the output and this position's key and value (B, heads, 1, d).
        """
        attn, mlp = self.attn, self.mlp
        q, k, v = attn.heads(self.norm1(x), rope)
        x = x + attn.proj(attend(q, k, v, past_k, past_v).transpose(1, 2).flatten(2))
        return x + mlp(self.norm2(x)), k, v


@dataclass
class DecodingState:
    """Where a cached decoding stands: rows' classes, their cache, the next position."""

    class_ids: Tensor
    cache: KeyValueCache
    position: int = 0


@GENERATORS.register("alitok", GeneratorConfig)
class AliTokGenerator(nn.Module):
    """Next-code transformer. The embedding table holds the codes, one unused row, the classes
    and "no class", in that order."""

    # For logits that are not rounded: guidance multiplies differences of them by up to its scale.
    float32_parts = ("norm", "output")

    def __init__(self, config: GeneratorConfig):
        super().__init__()
        width, heads = config.hidden_size, config.num_attention_heads
        if width % heads:
            raise ValueError(f"hidden_size {width} is not a multiple of num_attention_heads {heads}")
        # image_seq_len = grid^2 + grid + 1 with prefix tokens, grid^2 without.
        length = config.image_seq_len
        grid_size = int(length**0.5)
        num_prefix = length - grid_size**2
        if num_prefix not in (0, grid_size + 1):
            raise ValueError(f"image_seq_len {length} is neither G*G nor G*G + G + 1 for any grid side G")
        if config.code_order not in CODE_ORDERS:
            raise ValueError(f"code_order '{config.code_order}' is not one of {CODE_ORDERS}")
        self.config = config
        self.num_codes = length
        self.backwards = config.code_order == "reversed"
        self.codebook_size = config.codebook_size
        self.num_classes = config.condition_num_classes
        self.class_label_dropout = config.class_label_dropout
        self.use_checkpoint = config.use_checkpoint
        self.embeddings = nn.Embedding(self.codebook_size + 1 + self.num_classes + 1, width)
        self.tok_dropout = nn.Dropout(config.tok_dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(width)
        self.output = nn.Linear(width, self.codebook_size)
        # On the CPU even where the model is built on the meta device: no file holds this buffer.
        with torch.device("cpu"):
            table = rotary_table(num_prefix, grid_size, width // heads)
            if self.backwards:  # a code keeps its place in the image
                table = torch.cat([table[:1], table[1:].flip(0)])
        self.register_buffer("rope", table, persistent=False)
        self._whole_step = None  # see `optimize_for_sampling`
        self.apply(self._init)
        nn.init.zeros_(self.output.weight)

    @staticmethod
    def _init(module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=INIT_STD)
            if getattr(module, "bias", None) is not None:
                nn.init.zeros_(module.bias)

    def compile_blocks(self) -> None:
        """Compile each block by itself: one short compilation serves all, and the averaging of
        gradients over ranks, which follows each block's backward, still overlaps with the next."""
        for block in self.blocks:
            block.compile()

    def optimize_for_sampling(self, rows: int, compile: bool) -> None:
        """Make `step` fast with inputs of `rows` rows; the model is for sampling alone from then on."""
        device = self.embeddings.weight.device.type
        if device == "cpu":
            if can_pack(self.embeddings.weight.dtype):
                pack_linears(self, rows)
            self._whole_step = torch.compile(self._step_pure) if compile else None
        elif compile:
            for block in self.blocks:
                block.kernels = compiled()

    def embed_classes(self, class_ids: Tensor) -> Tensor:
        """class_ids: (B,) in [0, num_classes], the last meaning "no class" -> (B, width)."""
        return self.embeddings(class_ids + self.codebook_size + 1)

    def forward(self, codes: Tensor, class_ids: Tensor) -> Tensor:
        """Logits of the next code at every position.

        codes: (B, n) with 0 <= n <= T, in the order drawn; class_ids: (B,). Returns (B, n + 1, K);
        entry t predicts code t. In training mode class labels are dropped with probability class_label_dropout.
        """
        if self.training and self.class_label_dropout:
            dropped = torch.rand(class_ids.shape, device=class_ids.device) < self.class_label_dropout
            class_ids = class_ids.masked_fill(dropped, self.num_classes)
        x = torch.cat([self.embed_classes(class_ids)[:, None], self.embeddings(codes)], dim=1)
        x = self.tok_dropout(at_least_float32(x))
        rope = self.rope[: x.shape[1]]
        x = run_blocks(self.blocks, x, rope, recompute=self.use_checkpoint and self.training)
        return self.output(self.norm(x))

    def loss(self, codes: Tensor, class_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy in nats per code, and the share of codes predicted first.

        codes: (B, T), class_ids: (B,). The last code predicts nothing and is not fed.
        """
        codes = codes.flip(1) if self.backwards else codes
        logits = self(codes[:, :-1], class_ids).float().flatten(0, 1)
        targets = codes.flatten()
        accuracy = (logits.detach().argmax(-1) == targets).float().mean()
        return F.cross_entropy(logits, targets), accuracy

    def start(self, class_ids: Tensor) -> DecodingState:
        """Begin cached decoding of rows with class_ids (B,)."""
        attn, weight = self.blocks[0].attn, self.embeddings.weight
        shape = (len(self.blocks), len(class_ids), attn.num_heads, self.num_codes, attn.head_width)
        return DecodingState(class_ids, KeyValueCache(*shape, dtype=weight.dtype, device=weight.device))

    @torch.no_grad()
    def step(self, state: DecodingState, codes: Tensor | None) -> Tensor:
        """Feed one position, return the logits (B, K) of the next code; advances `state`.

        codes: (B,) drawn last, None at the first step, which feeds the classes.
        """
        x = self.embed_classes(state.class_ids) if codes is None else self.embeddings(codes)
        x = at_least_float32(x)[:, None]  # between blocks, as in training: half precision is for what they add
        rope = self.rope[state.position : state.position + 1]
        if self._whole_step and state.position >= 2:  # lengths 0 and 1 would be compiled each for itself
            past = state.cache.past(state.position)
            for tensor in past:
                torch._dynamo.mark_dynamic(tensor, 3)
            logits, k, v = self._whole_step(x, rope, *past)
            state.cache.append_all(state.position, k, v)
        else:
            for layer, block in enumerate(self.blocks):
                x = block.step(x, rope, state.cache, layer, state.position)
            logits = self.output(self.norm(x))
        state.position += 1
        return logits[:, 0].float()

    def _step_pure(self, x: Tensor, rope: Tensor, past_k: Tensor, past_v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One position as a function that writes nowhere, which compiles to one piece for the CPU:
        there a call from Python costs as much as a small kernel.

        x: (B, 1, width); past_k, past_v: (layers, B, heads, n, d). Returns logits (B, 1, K) and the
        new keys and values (layers, B, heads, 1, d).
        """
        keys, values = [], []
        for block, block_k, block_v in zip(self.blocks, past_k, past_v, strict=True):
            x, k, v = block.step_pure(x, rope, block_k, block_v)
            keys.append(k)
            values.append(v)
        return self.output(self.norm(x)), torch.stack(keys), torch.stack(values)

    def finish(self, codes: Tensor) -> Tensor:
        """codes: (B, T) in the order drawn -> in the tokenizer's order."""
        return codes.flip(1) if self.backwards else codes
