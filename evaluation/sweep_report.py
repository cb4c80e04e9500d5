"""Table, heat map and best settings of a sweep."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.metrics import METRICS
from evaluation.sweep_axes import Point
from sampling.decoding import override_key
from utils.atomic import atomic_path

LOWER_IS_BETTER = ("fid", "sfid", "kid")
HIDDEN = ("fid_low", "fid_high", "kid_std")
MISSING = "–"
MAX_COLUMNS = 3  # of panels, if each metric has one


def metric_titles(results: Sequence[Mapping[str, float]]) -> dict[str, str]:
    """Key -> title of the metrics that the results have."""
    titles = {key: title for metric in METRICS.values() for key, title in metric.titles.items()}
    return {key: title for key, title in titles.items() if key in results[0] and key not in HIDDEN}


def best(results: Sequence[Mapping[str, float]], key: str) -> int:
    """Index of the best result by a metric."""
    sign = 1 if key in LOWER_IS_BETTER else -1
    return min(range(len(results)), key=lambda i: sign * results[i][key])


def overrides(point: Point) -> str:
    """The settings of a point as overrides of sample_imagenet.py."""
    return " ".join(f"{override_key(name)}={'null' if value is None else value}" for name, value in point.items())


def table(points: Sequence[Point], results: Sequence[Mapping[str, float]]) -> str:
    """Markdown, one line a point; the best value of each metric is bold."""
    titles = metric_titles(results)
    winners = {key: best(results, key) for key in titles}
    rows = [[*points[0], *titles.values()], ["---"] * (len(points[0]) + len(titles))]
    for i, (point, values) in enumerate(zip(points, results, strict=True)):
        numbers = [f"**{values[key]:.4g}**" if winners[key] == i else f"{values[key]:.4g}" for key in titles]
        rows.append([*(MISSING if value is None else f"{value}" for value in point.values()), *numbers])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


@dataclass(frozen=True)
class Panel:
    """One heat map: a metric over two axes, at one value of each other axis."""

    title: str
    cells: list[list[int]]  # rows of indices of points
    ranks: list[int]  # of all points of the sweep by this metric; 0 is the best
    values: list[float]


def heat_map(
    axes: Mapping[str, list[Any]], points: Sequence[Point], results: Sequence[Mapping[str, float]], path: Path
) -> None:
    """A panel for each metric over the two axes with most values, and for each value of the others.

    Colours are ranks: brighter is better in every panel, and one bad corner does not hide the rest. A frame marks the
    best point.
    """
    import matplotlib  # imported late: it takes a third of a second

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    x, y = [*sorted(axes, key=lambda name: -len(axes[name])), None][:2]
    xs, ys = axes[x], axes[y] if y else [""]
    panels, titles = _panels(axes, points, results, x, y), metric_titles(results)
    columns = len(titles) if len(panels) > len(titles) else min(len(titles), MAX_COLUMNS)
    rows = -(-len(panels) // columns)
    width, height = max(3.2, 0.7 * len(xs) + 1.2), max(2.0, 0.5 * len(ys) + 1.3)
    figure, sheet = plt.subplots(rows, columns, figsize=(width * columns, height * rows), squeeze=False)
    for axis, panel in zip(sheet.flat, panels, strict=False):
        worst = max(panel.ranks) or 1
        axis.imshow([[-panel.ranks[i] for i in row] for row in panel.cells], vmin=-worst, vmax=0, aspect="auto")
        for (j, row), i in itertools.product(enumerate(panel.cells), range(len(xs))):
            rank = panel.ranks[row[i]]
            color = "white" if rank > 0.5 * worst else "black"
            axis.text(i, j, f"{panel.values[row[i]]:.3g}", ha="center", va="center", color=color, fontsize=9)
            if rank == 0:
                axis.add_patch(plt.Rectangle((i - 0.47, j - 0.45), 0.94, 0.9, fill=False, edgecolor="red", lw=2))
        axis.set(title=panel.title, xlabel=x, ylabel=y or "")
        axis.set_xticks(range(len(xs)), [f"{value}" for value in xs])
        axis.set_yticks(range(len(ys)), [f"{value}" for value in ys])
    for axis in sheet.flat[len(panels) :]:
        axis.axis("off")
    figure.tight_layout()
    with atomic_path(path) as part:
        figure.savefig(part, dpi=110, format="png")
    plt.close(figure)


def _panels(
    axes: Mapping[str, list[Any]],
    points: Sequence[Point],
    results: Sequence[Mapping[str, float]],
    x: str,
    y: str | None,
) -> list[Panel]:
    titles, panels = metric_titles(results), []
    others = {name: values for name, values in axes.items() if name not in (x, y)}
    for chosen in itertools.product(*others.values()):
        fixed = dict(zip(others, chosen, strict=True))
        at = [[{**fixed, x: a, **({y: b} if y else {})} for a in axes[x]] for b in (axes[y] if y else [None])]
        cells = [[points.index(point) for point in row] for row in at]
        where = ", ".join(f"{name} {value}" for name, value in fixed.items() if len(axes[name]) > 1)
        for key, title in titles.items():
            values = [result[key] for result in results]
            ordered = sorted(set(values), reverse=key not in LOWER_IS_BETTER)
            ranks = [ordered.index(value) for value in values]
            panels.append(Panel(f"{title}\n{where}" if where else title, cells, ranks, values))
    return panels
