"""Table, heat map and best settings of a sweep."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evaluation.metrics import METRICS
from evaluation.sweep_axes import Point
from sampling.decoding import override_key
from utils.atomic import atomic_path

LOWER_IS_BETTER = ("fid", "sfid", "kid")
HIDDEN = ("fid_low", "fid_high", "kid_std")
MISSING = "–"


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


def heat_map(
    axes: Mapping[str, list[Any]], points: Sequence[Point], results: Sequence[Mapping[str, float]], path: Path
) -> None:
    """A column of panels for each metric, over the two axes with most values; a row for each value of the others.

    Brighter is better in every panel; a frame marks the best point of the metric.
    """
    import matplotlib  # imported late: it takes a third of a second

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    titles = metric_titles(results)
    names = sorted(axes, key=lambda name: -len(axes[name]))[:2]
    x_name = names[0]
    y_name = names[1] if len(names) > 1 and len(axes[names[1]]) > 1 else None
    others = {name: values for name, values in axes.items() if name not in (x_name, y_name)}
    slices = [dict(zip(others, values, strict=True)) for values in itertools.product(*others.values())]
    xs, ys = axes[x_name], axes[y_name] if y_name else [None]
    width, height = max(2.6, 0.75 * len(xs) + 1.2), max(1.9, 0.6 * len(ys) + 1.3)
    figure, panels = plt.subplots(
        len(slices), len(titles), figsize=(width * len(titles), height * len(slices)), squeeze=False
    )
    for (row, others_here), (column, (key, title)) in itertools.product(enumerate(slices), enumerate(titles.items())):
        axis, sign = panels[row][column], -1 if key in LOWER_IS_BETTER else 1
        numbers = [result[key] for result in results]
        cells = [
            [points.index({name: {x_name: x, y_name: y, **others_here}[name] for name in axes}) for x in xs] for y in ys
        ]
        low, high = min(sign * n for n in numbers), max(sign * n for n in numbers)
        axis.imshow(
            [[sign * numbers[i] for i in line] for line in cells], cmap="viridis", vmin=low, vmax=high, aspect="auto"
        )
        winner = best(results, key)
        for (j, line), i in itertools.product(enumerate(cells), range(len(xs))):
            number = numbers[line[i]]
            dark = high == low or (sign * number - low) / (high - low) < 0.6
            axis.text(i, j, f"{number:.3g}", ha="center", va="center", color="white" if dark else "black", fontsize=8)
            if line[i] == winner:
                axis.add_patch(plt.Rectangle((i - 0.48, j - 0.46), 0.96, 0.92, fill=False, edgecolor="red", lw=2))
        fixed = ", ".join(f"{name} {value}" for name, value in others_here.items() if len(axes[name]) > 1)
        axis.set_title(title + (f"\n{fixed}" if fixed else ""), fontsize=9)
        axis.set_xticks(range(len(xs)), [f"{x}" for x in xs], fontsize=8)
        axis.set_yticks(range(len(ys)), [f"{y}" if y_name else "" for y in ys], fontsize=8)
        axis.set_xlabel(x_name, fontsize=8)
        axis.set_ylabel((y_name or "") if column == 0 else "", fontsize=8)
    figure.tight_layout()
    with atomic_path(path) as part:
        figure.savefig(part, dpi=120, format="png")
    plt.close(figure)
