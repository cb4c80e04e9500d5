"""Plots of training curves from a metrics.jsonl."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from training.logging import read_log

BAND_POINTS = 200
Limits = Callable[[str, float], tuple[float, float] | None]


def plot_curves(
    output_dir: str | Path,
    panels: Sequence[Sequence[str]],
    path: str | Path,
    title: str = "",
    limits: Limits | None = None,
) -> None:
    """One panel per group of metric names; groups that were never logged are left out.

    limits: name and step -> lowest and highest value of a band, None where there is none; drawn behind the curves.
    """
    plot_runs({title: Path(output_dir)}, [(title, panel) for panel in panels], path, limits)


def plot_runs(
    runs: dict[str, Path],
    panels: Sequence[tuple[str, Sequence[str]]],
    path: str | Path,
    limits: Limits | None = None,
) -> None:
    """Panels of several runs: `panels` holds (run, metric names), `runs` each run's output folder."""
    import matplotlib  # imported late: it takes a third of a second

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    series = []
    logs = {run: read_log(folder) for run, folder in runs.items()}
    for run, names in panels:
        lines = {
            name: [(row["step"], row[name]) for row in logs[run] if isinstance(row.get(name), int | float)]
            for name in names
        }
        lines = {name: points for name, points in lines.items() if points}
        if lines:
            series.append((run, lines))
    if not series:
        return
    columns = min(len(series), 3)
    rows = -(-len(series) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4.6 * columns, 3.2 * rows), squeeze=False)
    for axis, (run, lines) in zip(axes.flat, series, strict=False):
        for name, points in lines.items():
            marker = "o" if len(points) < 12 else None
            [line] = axis.plot(*zip(*points, strict=True), label=name, marker=marker, markersize=3)
            _draw_band(axis, limits, name, max(step for step, _ in points), line.get_color())
        axis.set(title=run, xlabel="step")
        axis.grid(alpha=0.3)
        values = [value for _, value in next(iter(lines.values()))]
        free = "upper right" if values[-1] < values[0] else "lower right"  # beside the curve and in its band
        axis.legend(fontsize=8, frameon=False, loc=free if limits else "best")
    for axis in axes.flat[len(series) :]:
        axis.axis("off")
    figure.tight_layout()
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _draw_band(axis: Any, limits: Limits | None, name: str, last_step: int, color: Any) -> None:
    """Shade the band of a curve up to `last_step`."""
    if limits is None:
        return
    found = {step: limits(name, step) for step in np.linspace(0, last_step, BAND_POINTS)}
    inside = [(step, *pair) for step, pair in found.items() if pair is not None]
    if inside:
        axis.fill_between(*zip(*inside, strict=True), color=color, alpha=0.15, lw=0, label=f"{name}, reference")
