"""Image grids, PNG files, and the published conversion of floats to bytes."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.utils import make_grid

from utils.atomic import atomic_path


def to_bytes(images: Tensor, rounded: bool = False) -> Tensor:
    """(..., 3, H, W) in [0, 1] -> uint8 (..., H, W, 3).

    Values are truncated as in the published sampler, because published FIDs contain the truncation.
    rounded: round instead, which is more exact when reconstructions are compared with their originals.
    """
    return (images.clamp(0, 1) * 255 + 0.5 * rounded).to(torch.uint8).movedim(-3, -1)


def grid(images: Tensor, columns: int, scale: int = 1) -> Image.Image:
    """(n, 3, H, W) in [0, 1] -> one picture with `columns` images a row, each pixel `scale` pixels wide."""
    sheet = make_grid(images.float().cpu().clamp(0, 1), nrow=columns, padding=2, pad_value=1.0)
    picture = Image.fromarray(to_bytes(sheet).numpy())
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)


def preview_scale(image_size: int) -> int:
    """Factor that makes small images large enough to see."""
    return max(1, 96 // image_size)


def labelled_rows(picture: Image.Image, labels: Sequence[str], margin: int = 110, top: int = 0) -> Image.Image:
    """Write a label left of each row of `picture`. The rows are equally high and start at pixel `top`."""
    font = ImageFont.load_default(size=14)
    margin = max(margin, *(int(font.getlength(label)) + 12 for label in labels))
    sheet = Image.new("RGB", (picture.width + margin, picture.height), "white")
    sheet.paste(picture, (margin, 0))
    pen, height = ImageDraw.Draw(sheet), (picture.height - top) / len(labels)
    for i, label in enumerate(labels):
        pen.text((6, top + (i + 0.5) * height), label, fill="black", font=font, anchor="lm")
    return sheet


def labelled_columns(pictures: Sequence[Image.Image], labels: Sequence[str], margin: int = 24) -> Image.Image:
    """Pictures side by side, a label above each."""
    gap = margin // 2
    sheet = Image.new(
        "RGB", (sum(p.width + gap for p in pictures) - gap, max(p.height for p in pictures) + margin), "white"
    )
    pen, left, font = ImageDraw.Draw(sheet), 0, ImageFont.load_default(size=14)
    for picture, label in zip(pictures, labels, strict=True):
        sheet.paste(picture, (left, margin))
        pen.text((left + picture.width / 2, margin / 2), label, fill="black", font=font, anchor="mm")
        left += picture.width + gap
    return sheet


def save_png(picture: Image.Image, path: str | Path, flush: bool = True) -> None:
    """flush: see `atomic_path`."""
    with atomic_path(path, flush) as part:
        picture.save(part, format="PNG")
