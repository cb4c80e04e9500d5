"""Numbers of finished runs, and their means and spreads over seeds."""

import json
import math
import statistics
from dataclasses import dataclass

from experiments.ablation.config import INCEPTION, AblationConfig
from experiments.ablation.plan import Run
from training.logging import last_logged


@dataclass(frozen=True)
class Measure:
    """One column: its name, its key in a run's numbers, how it is printed, what is better."""

    title: str
    key: str
    digits: int
    better: str = ""  # lower | higher, where one of them is
    factor: float = 1.0

    def show(self, values: list[float]) -> str:
        """Mean ± sample standard deviation over seeds."""
        values = [self.factor * v for v in values]
        mean = f"{statistics.mean(values):.{self.digits}f}"
        return f"{mean} ± {statistics.stdev(values):.{self.digits}f}" if len(values) > 1 else mean


def measures(config: AblationConfig) -> list[Measure]:
    """The columns of an ablation, in the order of the work: tokenizer, AR model, samples."""
    return [
        Measure("codes an image", "num_codes", 0),
        Measure("reconstruction PSNR, dB", "psnr", 2, "higher"),
        Measure("reconstruction FID", "rfid", 2, "lower"),
        Measure("codebook used, %", "codebook_usage", 1, "higher", 100),
        Measure("AR loss, nats a code", "nats_per_code", 3, "lower"),
        Measure("AR loss, nats an image", "nats_per_image", 1, "lower"),
        *(Measure(f"{probe}: more nats an image", f"{probe}_gap", 1) for probe in config.probes),
        *(
            Measure(f"{title}, {sampling}", f"{sampling}_{key}", digits, better, factor)
            for sampling in config.samplings
            for title, key, digits, better, factor in (
                ("FID", "fid", 2, "lower", 1),
                ("FID of Inception", "inception_fid", 2, "lower", 1),
                ("precision, %", "precision", 1, "higher", 100),
                ("recall, %", "recall", 1, "higher", 100),
                ("class agreement, %", "agreement", 1, "higher", 100),
            )
        ),
    ]


def collect(run: Run, config: AblationConfig) -> dict[str, float | int | str]:
    """All numbers of a finished run."""

    def numbers(name: str) -> dict[str, float]:
        return json.loads((run.folder / f"{name}.json").read_text())

    loss = last_logged(run.codes_folder / "ar", "val_loss")
    row = {
        "variant": run.variant,
        "title": run.title,
        "seed": run.seed,
        "num_codes": run.num_codes,
        **numbers("tokenizer"),
        "nats_per_code": loss,
        "nats_per_image": loss * run.num_codes,
        "ar_accuracy": last_logged(run.codes_folder / "ar", "val_accuracy"),
    }
    row |= {f"{p}_gap": (last_logged(run.codes_folder / p, "val_loss") - loss) * run.num_codes for p in config.probes}
    for sampling in config.samplings:
        for judged in (sampling, f"{sampling}{INCEPTION}"):
            if (run.folder / f"{judged}.json").is_file():
                row |= {f"{judged}_{name}": value for name, value in numbers(judged).items() if name != "features"}
    return row


def one_line(row: dict, config: AblationConfig) -> str:
    """A run in one line for the terminal."""
    drawn = "".join(f", FID {row[f'{s}_fid']:.2f} ({s})" for s in config.samplings)
    return (
        f"{row['variant']}, seed {row['seed']}: PSNR {row['psnr']:.2f} dB,"
        f" AR {row['nats_per_code']:.3f} nats a code, {row['nats_per_image']:.1f} an image{drawn}"
    )


def by_variant(rows: list[dict]) -> dict[str, list[dict]]:
    """Rows of each title, in the order of first appearance."""
    grouped: dict[str, list[dict]] = {}
    for row in rows:
        grouped.setdefault(row["title"], []).append(row)
    return grouped


def table(rows: list[dict], columns: list[Measure]) -> str:
    """Markdown: a line per measure, a column per variant, mean ± standard deviation over seeds."""
    groups = by_variant(rows)
    lines = ["| | " + " | ".join(groups) + " |", "|---" * (len(groups) + 1) + "|"]
    for column in columns:
        cells = [
            column.show(values) if not any(map(math.isnan, values)) else "not finite"
            for values in ([row[column.key] for row in group] for group in groups.values())
        ]
        lines.append(f"| {column.title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
