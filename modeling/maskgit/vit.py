"""`ViT`: the encoder of BERT (Devlin et al., arXiv:1810.04805), with the key names of Hugging Face's."""

import torch.nn.functional as F
from torch import Tensor, nn

from modeling.interfaces import CodeLayout
from modeling.layers.attention import attention
from modeling.layers.norms import LayerNorm
from modeling.layers.precision import at_least_float32
from modeling.layers.run_blocks import run_blocks
from modeling.maskgit.masked_transformer import INIT_STD, MaskedTransformer, take_rows
from modeling.maskgit.settings import MaskGITConfig

NORM_EPS = 1e-12
NUM_TOKEN_TYPES = 2  # only the first one is used


class Layer(nn.Module):
    """Post-norm block: norm(x + attention(x)), then norm(x + mlp(x))."""

    def __init__(self, config: MaskGITConfig):
        super().__init__()
        width, hidden = config.hidden_size, config.intermediate_size
        self.head_width = width // config.num_attention_heads
        self.attn_drop = config.attn_drop
        projections = {name: nn.Linear(width, width) for name in ("query", "key", "value")}
        self.attention = nn.ModuleDict({"self": nn.ModuleDict(projections), "output": self._output(width, width)})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, hidden)})
        self.output = self._output(hidden, width)
        self.dropout = nn.Dropout(config.dropout)

    @staticmethod
    def _output(inputs: int, width: int) -> nn.ModuleDict:
        return nn.ModuleDict({"dense": nn.Linear(inputs, width), "LayerNorm": LayerNorm(width, NORM_EPS)})

    def _add(self, x: Tensor, output: nn.ModuleDict, hidden: Tensor) -> Tensor:
        return output["LayerNorm"](x + self.dropout(output["dense"](hidden)))

    def forward(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        """x: (B, L, width) -> the same, or only its `rows` (B, n): (B, n, width)."""
        dtype = self.output["LayerNorm"].weight.dtype  # that of the weights: x stays float32
        half = x.to(dtype)
        q, k, v = (
            projection(source).unflatten(-1, (-1, self.head_width)).transpose(1, 2)
            for projection, source in zip(
                self.attention["self"].values(), (take_rows(half, rows), half, half), strict=True
            )
        )
        attended = attention(q, k, v, causal=False, dropout=self.attn_drop if self.training else 0.0)
        x = self._add(take_rows(x, rows), self.attention["output"], attended.transpose(1, 2).flatten(2))
        return self._add(x, self.output, F.gelu(self.intermediate["dense"](x.to(dtype))))


class ViT(MaskedTransformer):
    # Kept in float32: guidance amplifies rounding of the logits by up to guidance_scale.
    float32_parts = ("model.lm_head",)
    class_tables = ("model.embeddings.word_embeddings.weight",)

    def __init__(self, config: MaskGITConfig, layout: CodeLayout):
        super().__init__(config, layout)
        width = config.hidden_size
        embeddings = {
            "word_embeddings": nn.Embedding(self.vocabulary, width),
            "position_embeddings": nn.Embedding(self.length, width),
            "token_type_embeddings": nn.Embedding(NUM_TOKEN_TYPES, width),
            "LayerNorm": LayerNorm(width, NORM_EPS),
        }
        layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.model = nn.ModuleDict(
            {
                "embeddings": nn.ModuleDict(embeddings),
                "encoder": nn.ModuleDict({"layer": layers}),
                "lm_head": nn.Linear(width, layout.codebook_size),
            }
        )
        self.dropout = nn.Dropout(config.dropout)
        self.apply(self._init)

    @staticmethod
    def _init(module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=INIT_STD)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)

    @property
    def blocks(self) -> nn.ModuleList:
        return self.model["encoder"]["layer"]

    def logits(self, tokens: Tensor, rows: Tensor | None) -> Tensor:
        embeddings = self.model["embeddings"]
        x = at_least_float32(embeddings["word_embeddings"](tokens))
        x = x + embeddings["position_embeddings"].weight + embeddings["token_type_embeddings"].weight[0]
        x = self.dropout(embeddings["LayerNorm"](x))
        recompute = self.config.use_checkpoint and self.training
        x = run_blocks(self.blocks[:-1], x, recompute=recompute)
        x = run_blocks(self.blocks[-1:], x, rows, recompute=recompute)
        return self.model["lm_head"](x[:, 1:] if rows is None else x)
