"""Plots of training curves from a metrics.jsonl."""

from collections.abc import Sequence
from pathlib import Path

from training.logging import read_log


def plot_curves(output_dir: str | Path, panels: Sequence[Sequence[str]], path: str | Path, title: str = "") -> None:
    """One panel per group of metric names; groups that were never logged are left out."""
    plot_runs({title: Path(output_dir)}, [(title, panel) for panel in panels], path)


def plot_runs(runs: dict[str, Path], panels: Sequence[tuple[str, Sequence[str]]], path: str | Path) -> None:
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
            axis.plot(*zip(*points, strict=True), label=name, marker="o" if len(points) < 12 else None, markersize=3)
        axis.set(title=run, xlabel="step")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8, frameon=False)
    for axis in axes.flat[len(series) :]:
        axis.axis("off")
    figure.tight_layout()
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
