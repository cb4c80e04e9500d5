"""Compare a training's curves with a reference: `training.compare=REFERENCE`, or of a log that is there

python -m training.compare output/alitok_b docs/reference_curves/fashion_mnist_ar --picture compared.png

A reference is a folder with the metrics.jsonl of a run, so any output folder will do. A band.yaml beside it says how
far equal runs may be apart.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from omegaconf import OmegaConf

from training.logging import LOG_FILE, read_log
from training.plots import plot_curves
from utils.arguments import file_path
from utils.config import compose, option
from utils.errors import UserError, entry_point, nearest
from utils.yaml_files import read_yaml

BAND_FILE = "band.yaml"
SMOOTHED_FROM = 10  # points; a curve with fewer is taken as it is
NEIGHBOURS = 2  # points on either side that a smoothed point is the mean of
GUESSED = ("loss", "val_loss", "accuracy", "val_accuracy", "val_psnr", "gfid")  # compared without band.yaml
PATIENCE = 3  # log lines in a row outside before a warning, for curves that are smoothed


@dataclass
class CompareSettings:
    """Part of `training`."""

    compare: str | None = option(
        None, "folder with the metrics.jsonl of a reference run: warn where this run leaves its band", path="read"
    )


@dataclass
class Tolerance:
    relative: float = option(0.0, "share of the reference's value", min=0)
    absolute: float = option(0.0, "in the unit of the curve; the larger of the two counts", min=0)


@dataclass
class Band:
    """The file band.yaml."""

    run: str = option("a run without band.yaml: its band is a guess", "what the reference is, in words")
    slack: float = option(0.1, "a run may reach a value this share of its steps earlier or later", min=0)
    start: int = option(0, "steps before this one are not compared", min=0)
    curves: dict[str, Tolerance] = option({}, "how far equal runs are apart, by name in the log")


class ReferenceCurves:
    """Smoothed curves by step, and the band around each."""

    def __init__(self, path: str | Path):
        """path: the folder of a run, or its metrics.jsonl. Raises UserError if it holds no curves."""
        self.folder = run_folder(path)
        if not (self.folder / LOG_FILE).is_file():
            raise UserError(f"no reference: there is no {self.folder / LOG_FILE}; name the folder of a run")
        band_file, rows = self.folder / BAND_FILE, read_log(self.folder)
        has_band = band_file.is_file()
        self.band: Band = OmegaConf.to_object(
            compose(Band, read_yaml(band_file) if has_band else OmegaConf.create(), [], str(band_file))
        )
        self.tolerances = self.band.curves or dict.fromkeys(GUESSED, Tolerance(relative=0.1))
        names = {name for row in rows for name in row}
        self.curves: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for name in self.tolerances:
            points = [(row["step"], row[name]) for row in rows if isinstance(row.get(name), int | float)]
            if points:
                steps, values = np.array(points, dtype=float).T
                self.curves[name] = steps, _smoothed(values)
            elif has_band:
                raise UserError(f"{band_file}: {LOG_FILE} beside it has no curve '{name}'{nearest(name, names)}")
        if not self.curves:
            raise UserError(f"{self.folder / LOG_FILE} has none of the curves {', '.join(self.tolerances)}")

    def limits(self, name: str, step: float) -> tuple[float, float] | None:
        """Lowest and highest value of the band at a step; None where the reference says nothing.

        The band spans the values of the smoothed curve from step / (1 + slack) to step (1 + slack), widened by the
        tolerance.
        """
        if name not in self.curves or step < self.band.start:
            return None
        (steps, values), slack = self.curves[name], 1 + self.band.slack
        if not steps[0] / slack <= step <= steps[-1] * slack:
            return None
        inside = values[(steps > step / slack) & (steps < step * slack)]
        near = np.concatenate([np.interp([step / slack, step, step * slack], steps, values), inside])
        tolerance = self.tolerances[name]
        margin = max(tolerance.relative * abs(float(np.interp(step, steps, values))), tolerance.absolute)
        return float(near.min()) - margin, float(near.max()) + margin

    def patience(self, name: str) -> int:
        """Values in a row outside the band that make a warning."""
        return PATIENCE if len(self.curves[name][0]) >= SMOOTHED_FROM else 1


def run_folder(path: str | Path) -> Path:
    """The folder of a run that is named by its folder or by its log."""
    path = Path(path)
    return path.parent if path.name == LOG_FILE else path


def _smoothed(values: np.ndarray) -> np.ndarray:
    """Means over NEIGHBOURS points on either side; at the ends over fewer, but equally many, as curves are steep."""
    if len(values) < SMOOTHED_FROM:
        return values
    sides = [min(i, len(values) - 1 - i, NEIGHBOURS) for i in range(len(values))]
    return np.array([values[i - side : i + side + 1].mean() for i, side in enumerate(sides)])


class CurveWatch:
    """Compares log lines as they come; `warnings` keeps what it has said, `compared` the curves that both have."""

    def __init__(self, reference: ReferenceCurves):
        self.reference = reference
        self.warnings: list[str] = []
        self.compared: set[str] = set()
        self._outside = dict.fromkeys(reference.curves, 0)  # values in a row

    def add(self, step: int, values: dict[str, float]) -> list[str]:
        """New lines to print: a curve left the band, or came back."""
        lines = []
        for name in self._outside:
            limits = self.reference.limits(name, step) if name in values else None
            if limits is None:
                continue
            self.compared.add(name)
            value = values[name]
            low, high = limits
            patience = self.reference.patience(name)
            if low <= value <= high:
                if self._outside[name] >= patience:
                    lines.append(f"step {step}: {name} {value:.4g} is back in the band of {self.reference.folder}")
                self._outside[name] = 0
                continue
            self._outside[name] += 1
            if self._outside[name] == patience:  # NaN is above, too
                side = "below" if value < low else "above"
                lines.append(
                    f"warning: step {step}: {name} {value:.4g} is {side} the band {low:.4g} to {high:.4g} of"
                    f" {self.reference.folder} ({self.reference.band.run})"
                )
        self.warnings += [line for line in lines if line.startswith("warning")]
        return lines

    def nothing_compared(self) -> str | None:
        """What is wrong with the choice of the reference if no value could be compared."""
        if self.compared:
            return None
        names = ", ".join(self.reference.curves)
        return f"nothing was compared: no log line has {names} at the steps of {self.reference.folder}"


def make_watch(compare: str | None) -> CurveWatch | None:
    """compare: `training.compare`. Raises UserError."""
    return None if compare is None else CurveWatch(ReferenceCurves(compare))


@entry_point
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=file_path, help="output folder of a training")
    parser.add_argument("reference", type=file_path, help="folder with a metrics.jsonl, and perhaps a band.yaml")
    parser.add_argument("--picture", type=file_path, help="PNG file: the run's curves over the bands")
    args = parser.parse_args()
    run = run_folder(args.run)
    watch, rows = CurveWatch(ReferenceCurves(args.reference)), read_log(run)
    if not rows:
        raise UserError(f"{run} has no {LOG_FILE} with log lines")
    print(f"reference: {watch.reference.band.run}")
    for row in rows:
        for line in watch.add(row["step"], row):
            print(line)
    if args.picture:
        panels = [(name,) for name in watch.reference.curves]
        plot_curves(run, panels, args.picture, run.name, watch.reference.limits)
    if watch.warnings:
        sys.exit(1)
    if problem := watch.nothing_compared():
        raise UserError(f"{run}: {problem}")
    inside = [name for name in watch.reference.curves if name in watch.compared]
    print(f"{', '.join(inside)}: inside the band")


if __name__ == "__main__":
    main()
