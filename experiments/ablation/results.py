"""Numbers of finished runs, their table and their plot."""

from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import scipy.stats
from matplotlib.figure import Figure

from experiments.ablation.config import AblationConfig
from experiments.ablation.plan import Run
from experiments.job_runner import job_seconds
from modeling.configs import read_models_config
from modeling.interfaces import GENERATORS
from train_tokenizer.mean_colour import LEAST_EXPLAINED
from training.logging import last_logged, read_log
from utils.atomic import read_json

PANELS_PER_ROW = 4


@dataclass(frozen=True)
class Measure:
    """A row of the table and a panel of the plot."""

    title: str
    key: str  # in a run's numbers
    digits: int
    better: str = ""  # "lower", "higher", or "" if neither is better
    factor: float = 1.0  # from the number to the unit in the title

    def values(self, rows: list[dict]) -> np.ndarray:
        """Of the runs that have this number."""
        return self.factor * np.array([row[self.key] for row in rows if row.get(self.key) is not None])

    def summary(self, rows: list[dict]) -> str:
        """Mean ± sample standard deviation over seeds."""
        values = self.values(rows)
        if not len(values):
            return "–"
        spread = f" ± {values.std(ddof=1):.{self.digits}f}" if len(values) > 1 else ""
        return f"{values.mean():.{self.digits}f}{spread}"

    def difference(self, rows: list[dict], others: list[dict]) -> str:
        """rows minus others, seed by seed: mean and 95 % confidence interval (Student's t). Needs two common seeds."""
        pairs = [(row, other) for row in rows for other in others if row["seed"] == other["seed"]]
        known = [pair for pair in pairs if all(row.get(self.key) is not None for row in pair)]
        if len(known) < 2:
            return "–"
        values = self.values([row for row, _ in known]) - self.values([other for _, other in known])
        half = scipy.stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
        mean, low, high = (f"{values.mean() + part:+.{self.digits}f}" for part in (0, -half, half))
        return f"{mean} [{low}, {high}]"


TOKENIZER = (
    Measure("codes per image", "num_codes", 0),
    Measure("reconstruction PSNR, dB", "psnr", 2, "higher"),
    Measure("reconstruction SSIM", "ssim", 3, "higher"),
    Measure("reconstruction LPIPS, small classifier", "lpips", 3, "lower"),
    Measure("reconstruction FID", "rfid", 2, "lower"),
    Measure("codebook used, %", "codebook_usage", 1, "higher", 100),
    Measure("codebook perplexity", "codebook_perplexity", 0, "higher"),
    Measure("effect of a code on earlier patches, %", "influence_earlier", 1, "", 100),
    Measure("effect of a code on later patches, %", "influence_later", 1, "", 100),
    Measure("steps at the mean colour", "steps_at_mean_colour", 0, "lower"),
    Measure("minutes of the tokenizer's training", "tokenizer_minutes", 1, "lower"),
)
GENERATOR = (
    Measure("AR loss, nats per code", "nats_per_code", 3, "lower"),
    Measure("AR loss, nats per image", "nats_per_image", 1, "lower"),
    Measure("AR top-1 accuracy, %", "ar_accuracy", 1, "higher", 100),
    Measure("minutes of the generator's training", "generator_minutes", 1, "lower"),
)
SAMPLES = (
    Measure("FID", "fid", 2, "lower"),
    Measure("precision, %", "precision", 1, "higher", 100),
    Measure("recall, %", "recall", 1, "higher", 100),
    Measure("class agreement, %", "agreement", 1, "higher", 100),
)


def tokenizer_and_generator(config: AblationConfig) -> tuple[Measure, ...]:
    return (*TOKENIZER, *GENERATOR) if config.generators else TOKENIZER


def measures(config: AblationConfig) -> list[Measure]:
    """In the order of work: tokenizer, generator, samples."""
    gaps = [Measure(f"{probe}: more nats per image", f"{probe}_gap", 1) for probe in config.probes]
    samples = [
        replace(measure, title=f"{measure.title}, {sampling}", key=f"{sampling}_{measure.key}")
        for sampling in config.samplings
        for measure in SAMPLES
    ]
    return [*tokenizer_and_generator(config), *gaps, *samples]


def collect(run: Run, config: AblationConfig) -> dict[str, float | int | str]:
    """All numbers of a finished run, read from its folders."""

    def read(name: str, prefix: str = "") -> dict[str, float]:
        numbers = read_json(run.folder / f"{name}.json")
        return {f"{prefix}{key}": value for key, value in numbers.items() if key != "features"}

    row = {
        "variant": run.variant,
        "title": run.title,
        "seed": run.seed,
        "num_codes": run.num_codes,
        **read("tokenizer"),
    }
    if (path := run.folder / "influence.json").is_file():  # codes on a line have no places
        [shares] = read_json(path).values()
        row |= {f"influence_{name}": share for name, share in shares.items()}
    seconds = job_seconds(Path(config.output_dir))
    stages = [seconds.get(name) for name in (f"{run.origin}: stage 1", f"{run.variant}, seed {run.seed}: stage 2")]
    row["tokenizer_minutes"] = sum(filter(None, stages)) / 60 or None
    row["steps_at_mean_colour"] = steps_at_mean_colour(run.stage1)
    if config.generators:
        row |= generator_numbers(run, config, seconds)
    for sampling in config.samplings:
        row |= read(sampling, f"{sampling}_")
    return row


def steps_at_mean_colour(stage1: Path) -> int | None:
    """How many steps drew about the mean colour of all images, as far as the log's intervals show it; None: no log."""
    rows = [(row["step"], row["explained"]) for row in read_log(stage1) if "explained" in row]
    there = [step - before for (before, _), (step, share) in pairwise([(0, 1.0), *rows]) if share < LEAST_EXPLAINED]
    return sum(there) if rows else None


def generator_numbers(run: Run, config: AblationConfig, seconds: dict[str, float]) -> dict[str, float]:
    """seconds: duration of each job by name."""
    row = {"generator_minutes": seconds[f"{run.author}, seed {run.seed}: ar"] / 60}
    generator = read_models_config(run.generators / "ar").generator.name
    if GENERATORS.part_class(generator).decoding == "autoregressive":  # else the loss is no likelihood of an image
        loss = row["nats_per_code"] = last_logged(run.generators / "ar", "val_loss")
        row["nats_per_image"] = loss * run.num_codes
        row["ar_accuracy"] = last_logged(run.generators / "ar", "val_accuracy")
        for probe in config.probes:
            row[f"{probe}_gap"] = (last_logged(run.generators / probe, "val_loss") - loss) * run.num_codes
    return row


def table(groups: dict[str, list[dict]], shown: list[Measure]) -> str:
    """Markdown: a row per measure, a column per variant; mean ± standard deviation over seeds.

    groups: title of a variant -> numbers of its runs.
    """
    lines = [["", *groups], ["---"] * (len(groups) + 1)]
    lines += [[measure.title, *map(measure.summary, groups.values())] for measure in shown]
    return _markdown(lines)


def differences(groups: dict[str, list[dict]], shown: list[Measure], reference: str) -> str:
    """Markdown: what the other groups have more than the one with the title `reference`."""
    others = {title: rows for title, rows in groups.items() if title != reference}
    lines = [[f"minus {reference}", *others], ["---"] * (len(others) + 1)]
    for measure in shown:
        lines.append([measure.title, *(measure.difference(rows, groups[reference]) for rows in others.values())])
    return _markdown(lines)


def _markdown(lines: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def plot_measures(groups: dict[str, list[dict]], shown: list[Measure], path: Path) -> None:
    """A panel per measure: a position per variant, a dot per seed, a line at the mean."""
    num_rows = -(-len(shown) // PANELS_PER_ROW)
    figure = Figure(figsize=(3.5 * PANELS_PER_ROW, 2.5 * num_rows))
    for position, measure in enumerate(shown, 1):
        axis = figure.add_subplot(num_rows, PANELS_PER_ROW, position)
        for x, group in enumerate(groups.values()):
            values = measure.values(group)
            axis.scatter([x] * len(values), values, s=16, color=f"C{x}", alpha=0.8)
            if len(values):
                axis.hlines(values.mean(), x - 0.25, x + 0.25, color=f"C{x}")
        axis.set_title(measure.title + (f" ({measure.better} is better)" if measure.better else ""), fontsize=9)
        # Of "(a) bidirectional" only the letter fits.
        axis.set_xticks(range(len(groups)), [title.split(" ")[0] for title in groups])
        axis.set_xlim(-0.5, len(groups) - 0.5)
        axis.grid(axis="y", alpha=0.3)
    figure.suptitle(", ".join(groups), fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
