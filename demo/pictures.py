"""Pictures of images and of codes, large enough for a page."""

import colorsys
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from modeling.interfaces import CodeLayout
from utils.images import grid

WIDTH = 640  # pixels that a picture has at least, if its pixels can be enlarged by a whole factor
GOLDEN_RATIO = 0.618034
MIN_CELL, MAX_CELL = 26, 48  # pixels of a code
GAP = 12  # pixels between the prefix and the grid
MARGIN = 40  # pixels above the codes: the page writes its label and buttons there


def picture(images: Tensor, columns: int) -> Image.Image:
    """images (n, 3, H, W) in [0, 1], `columns` a row; small ones enlarged with nearest neighbours."""
    width = columns * (images.shape[-1] + 2) + 2
    return grid(images, columns=columns, scale=max(1, WIDTH // width))


def code_picture(codes: Sequence[int], layout: CodeLayout, kept: Sequence[bool]) -> Image.Image:
    """Prefix codes in lines, below them the grid: a coloured cell with the number of each code.

    codes: T numbers; equal ones have the same colour. kept: T truth values; the other codes are grey.
    """
    columns = layout.grid[1] if layout.grid else min(layout.num_codes, 16)
    cell = min(max(WIDTH // 2 // columns, MIN_CELL), MAX_CELL)
    prefix_rows = -(-layout.num_prefix // columns)
    grid_rows = -(-(layout.num_codes - layout.num_prefix) // columns)
    top = MARGIN + (prefix_rows * cell + GAP if prefix_rows else 0)
    sheet = Image.new("RGB", (columns * cell, top + grid_rows * cell), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=max(9, cell // 3))
    for place, code in enumerate(codes):
        in_grid = place - layout.num_prefix
        row, column = divmod(place if in_grid < 0 else in_grid, columns)
        left, upper = column * cell, row * cell + (MARGIN if in_grid < 0 else top)
        colour = _colour(code) if kept[place] else (225, 225, 225)
        pen.rectangle((left, upper, left + cell - 2, upper + cell - 2), fill=colour)
        text = "black" if kept[place] else (150, 150, 150)
        pen.text((left + cell / 2 - 1, upper + cell / 2 - 1), str(code), fill=text, font=font, anchor="mm")
    return sheet


def _colour(code: int) -> tuple[int, int, int]:
    """A light colour, far from that of the next number."""
    red, green, blue = colorsys.hsv_to_rgb(code * GOLDEN_RATIO % 1, 0.35 + 0.25 * (code % 3) / 2, 0.95)
    return int(255 * red), int(255 * green), int(255 * blue)
