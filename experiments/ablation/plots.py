"""The measures of an ablation as dots, one for each seed, and their means."""

from pathlib import Path
from statistics import mean

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from experiments.ablation.results import Measure, by_variant

COLUMNS = 4
ARROWS = {"lower": " (lower is better)", "higher": " (higher is better)", "": ""}


def plot_measures(rows: list[dict], columns: list[Measure], path: str | Path) -> None:
    """A panel per measure, a position per variant, a dot per seed, a line at the mean."""
    groups = by_variant(rows)
    lines = -(-len(columns) // COLUMNS)
    figure, axes = plt.subplots(lines, COLUMNS, figsize=(3.5 * COLUMNS, 2.5 * lines), squeeze=False)
    for axis, column in zip(axes.flat, columns, strict=False):
        for place, group in enumerate(groups.values()):
            values = [column.factor * row[column.key] for row in group]
            color = f"C{place}"
            axis.scatter([place] * len(values), values, s=16, color=color, alpha=0.8)
            axis.hlines(mean(values), place - 0.25, place + 0.25, color=color)
        axis.set_title(f"{column.title}{ARROWS[column.better]}", fontsize=9)
        # "(a) bidirectional": the letter stands for the variant where there is one.
        axis.set_xticks(range(len(groups)), [title.split(" ")[0] for title in groups])
        axis.set_xlim(-0.5, len(groups) - 0.5)
        axis.grid(axis="y", alpha=0.3)
    for axis in axes.flat[len(columns) :]:
        axis.axis("off")
    figure.suptitle(", ".join(groups), fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
