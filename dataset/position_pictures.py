"""Pictures of a value per code position: a heat map for codes on a grid, a line for codes on a line."""

from collections.abc import Sequence
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from modeling.interfaces import CodeLayout

PANEL_SIZE = (4.6, 4.4)  # inches
DPI = 100


class PositionValues(NamedTuple):
    """A panel of the picture."""

    title: str  # with the unit
    values: np.ndarray  # (T,) in the tokenizer's order; NaN: no value


def position_picture(panels: Sequence[PositionValues], layout: CodeLayout) -> Image.Image:
    """Panels side by side. Each shows its values where the codes are in the image, with the prefix as a row above."""
    from matplotlib.figure import Figure  # imported late: it takes a third of a second

    figure = Figure(figsize=(PANEL_SIZE[0] * len(panels), PANEL_SIZE[1]), dpi=DPI, layout="constrained")
    for axis, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        if layout.grid is None:
            axis.plot(panel.values, marker=".")
            axis.set(xlabel="position")
            axis.grid(alpha=0.3)
        else:
            _draw_map(figure, axis, panel.values, layout)
        known = panel.values[~np.isnan(panel.values)]
        axis.set_title(f"{panel.title}\n{_range(known)}" if len(known) else panel.title, fontsize=10)
    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    return Image.open(buffer).convert("RGB")


def _range(values: np.ndarray) -> str:
    return f"{values.min():.3g} to {values.max():.3g}, mean {values.mean():.3g}"


def _draw_map(figure: Any, axis: Any, values: np.ndarray, layout: CodeLayout) -> None:
    picture = axis.imshow(code_map(values, layout), cmap="viridis", interpolation="nearest")
    above = 2 if layout.num_prefix else 0  # the prefix, an empty row
    rows = np.arange(0, layout.grid[0], max(1, layout.grid[0] // 4))
    axis.set_yticks([0, *(rows + above)] if above else rows, ["prefix", *rows] if above else rows)
    axis.set_xticks([])
    figure.colorbar(picture, ax=axis, shrink=0.8)


def code_map(values: np.ndarray, layout: CodeLayout) -> np.ndarray:
    """values (T,) as a picture: the grid, and above it an empty row and the prefix. NaN where there is nothing.

    Both end at the right edge, because AliTok's prefix begins left of the first row if it is longer than the row.
    """
    rows, columns = layout.grid
    grid = values[layout.num_prefix :].reshape(rows, columns)
    if not layout.num_prefix:
        return grid
    sheet = np.full((2 + rows, max(columns, layout.num_prefix)), np.nan)
    sheet[0, -layout.num_prefix :] = values[: layout.num_prefix]
    sheet[2:, -columns:] = grid
    return sheet
