"""What both networks of the masked generators share (Chang et al., "MaskGIT", arXiv:2202.04200)."""

import math
from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modeling.interfaces import CodeLayout, GeneratorLoss, Progress
from modeling.layers.weight_decay import decays_by_name
from modeling.maskgit.settings import MaskGITConfig

INIT_STD = 0.02
MIN_RATIO = 1e-6  # of masked codes
WEIGHTS_EPS = 1e-8


def take_rows(x: Tensor, rows: Tensor | None) -> Tensor:
    """x: (B, L, width); rows: (B, n) -> (B, n, width). None: all rows."""
    return x if rows is None else x.gather(1, rows[..., None].expand(-1, -1, x.shape[-1]))


class MaskedTransformer(nn.Module, ABC):
    """Bidirectional transformer over [class, code or mask, code or mask, ...] that predicts all codes.

    The rows of the embedding table are the codes, the mask, the classes and "no class".
    """

    decoding = "masked"
    loss_unit = "nats per code, with smoothed labels, mostly of masked codes"

    def __init__(self, config: MaskGITConfig, layout: CodeLayout):
        super().__init__()
        width, heads = config.hidden_size, config.num_attention_heads
        if width % heads:
            raise ValueError(f"hidden_size {width} is not a multiple of num_attention_heads {heads}")
        if config.image_seq_len not in (None, layout.num_codes):
            raise ValueError(f"image_seq_len is {config.image_seq_len}, the tokenizer has {layout.num_codes} codes")
        self.config = config
        self.layout = layout
        self.num_classes = config.condition_num_classes
        self.vocabulary = layout.codebook_size + 1 + self.num_classes + 1
        self.length = 1 + layout.num_codes
        self.loss_noise = 2 + layout.num_codes  # how many codes are masked, whether the class is dropped, which codes

    @property
    @abstractmethod
    def blocks(self) -> list[nn.Module]:
        """The blocks in the order in which they run."""

    @abstractmethod
    def logits(self, tokens: Tensor, rows: Tensor | None) -> Tensor:
        """tokens: (B, 1 + T) rows of the embedding table; rows: (B, n) in [1, T], or None for 1 .. T.

        Returns logits (B, n, K) of the codes at these positions.
        """

    def forward(self, codes: Tensor, class_ids: Tensor, places: Tensor | None = None) -> Tensor:
        """Logits of the codes at `places` (B, n) in [0, T), by default at all T: (B, n, K).

        codes: (B, T), -1 where masked; class_ids: (B,) in [0, num_classes], the last one is "no class".
        """
        mask = self.layout.codebook_size
        tokens = torch.cat([class_ids[:, None] + mask + 1, torch.where(codes < 0, mask, codes)], dim=1)
        return self.logits(tokens, None if places is None else places + 1)

    # -- training: modeling.interfaces.Generator --------------------------------------------------------

    def masks(self, noise: Tensor) -> Tensor:
        """noise: (B, loss_noise) -> which codes are masked, (B, T).

        A share arccos(t) / (pi / 2) of them for t uniform in [0, 1), and at least one.
        """
        ratio = (noise[:, 0].acos() / (math.pi / 2)).clamp(MIN_RATIO, 1)
        count = (self.layout.num_codes * ratio).round().clamp(min=1)
        return noise[:, 2:].argsort(dim=1).argsort(dim=1) < count[:, None]

    def loss(self, codes: Tensor, class_ids: Tensor, progress: Progress | None, noise: Tensor) -> GeneratorLoss:
        """Weighted mean over the batch of the cross-entropy with smoothed labels, and top-1 accuracy of masked codes.

        codes: (B, T), class_ids: (B,), noise: (B, loss_noise). In training classes are dropped.
        """
        masked = self.masks(noise)
        if progress is not None:
            class_ids = class_ids.masked_fill(noise[:, 1] < self.config.class_label_dropout, self.num_classes)
        logits = self(codes.masked_fill(masked, -1), class_ids).float()
        smoothing = self.config.label_smoothing
        nats = F.cross_entropy(logits.flatten(0, 1), codes.flatten(), reduction="none", label_smoothing=smoothing)
        weights = torch.where(masked, 1.0, self.config.loss_weight_unmasked_token)
        value = (weights.flatten() * nats).sum() / (weights.sum() + WEIGHTS_EPS)
        hits = (logits.detach().argmax(-1) == codes).float().masked_fill(~masked, torch.nan)
        return GeneratorLoss(value, hits.nanmean(1).mean(), hits, {"masked_share": masked.float().mean()})

    def decays(self, name: str, parameter: Tensor) -> bool:
        """Matrices without the tables, as published."""
        return decays_by_name(name, parameter)

    def forward_flops(self) -> int:
        """Two operations per weight of a linear layer and position, and two per score and channel in each
        product of attention. The class position has no logits."""
        linears = [m for m in self.modules() if isinstance(m, nn.Linear)]
        weights, head = sum(m.weight.numel() for m in linears), self.config.hidden_size * self.layout.codebook_size
        attention_products = 2 * len(self.blocks) * self.config.hidden_size * self.length**2
        return 2 * (weights * self.length - head + attention_products)
