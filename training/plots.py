"""Plots of training curves from a metrics.jsonl."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from training.compare import ReferenceCurves
from training.logging import read_log

BAND_POINTS = 200


def plot_curves(
    output_dir: str | Path,
    panels: Sequence[Sequence[str]],
    path: str | Path,
    title: str = "",
    reference: ReferenceCurves | None = None,
) -> None:
    """One panel per group of metric names; groups that were never logged are left out.

    reference: draw its bands behind the curves.
    """
    plot_runs({title: Path(output_dir)}, [(title, panel) for panel in panels], path, reference)


def plot_runs(
    runs: dict[str, Path],
    panels: Sequence[tuple[str, Sequence[str]]],
    path: str | Path,
    reference: ReferenceCurves | None = None,
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
            _draw_band(axis, reference, name, max(step for step, _ in points), line.get_color())
        axis.set(title=run, xlabel="step")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8, frameon=False)
    for axis in axes.flat[len(series) :]:
        axis.axis("off")
    figure.tight_layout()
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _draw_band(axis: Any, reference: ReferenceCurves | None, name: str, last_step: int, color: Any) -> None:
    """Shade the reference's band of a curve up to `last_step`."""
    if reference is None or name not in reference.curves:
        return
    limits = {step: reference.limits(name, step) for step in np.linspace(0, last_step, BAND_POINTS)}
    inside = [(step, *pair) for step, pair in limits.items() if pair is not None]
    if inside:
        axis.fill_between(*zip(*inside, strict=True), color=color, alpha=0.15, lw=0, label=f"{name}, reference")
