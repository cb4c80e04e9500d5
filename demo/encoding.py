"""Encode an uploaded image, and draw a part of it again."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dataset.images import read_center_crop
from demo.models import DemoModel
from modeling.interfaces import CodeLayout
from modeling.layers.precision import full_float32


@dataclass
class Encoded:
    """An image as a model's tokenizer sees it, on the CPU."""

    image: Tensor  # (1, 3, H, W) in [0, 1]: the centre crop
    codes: Tensor  # (1, T) int64
    reconstruction: Tensor  # (1, 3, H, W) in [0, 1]

    def describe(self, codebook_size: int) -> str:
        used, error = len(self.codes.unique()), (self.image - self.reconstruction).square().mean()
        return (
            f"{self.codes.shape[1]} codes, {used} different ones of the codebook's {codebook_size}; "
            f"PSNR of the reconstruction {-10 * torch.log10(error):.1f} dB"
        )


@torch.no_grad()
@full_float32()
def encode(model: DemoModel, file: str | Path) -> Encoded:
    """The centre crop of an image file, encoded and decoded. Raises UserError for a file that is no image."""
    pipeline = model.pipeline
    image = read_center_crop(file, pipeline.tokenizer.image_size)
    codes = pipeline.tokenizer.encode(image.to(pipeline.device))
    return Encoded(image, codes.cpu(), pipeline.decode(codes).cpu())


def num_rows(layout: CodeLayout) -> int:
    """Into how many rows a page cuts the codes behind the prefix; codes on a line are rows of one."""
    return layout.grid[0] if layout.grid else layout.num_codes


def codes_in_rows(layout: CodeLayout, rows: int) -> int:
    """The codes of the prefix and of the first `rows` rows: 0 rows keep only the prefix."""
    return layout.num_prefix + rows * (layout.num_codes - layout.num_prefix) // num_rows(layout)
