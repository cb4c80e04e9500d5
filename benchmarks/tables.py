"""The results of `python -m benchmarks.all` as tables of docs/benchmarks.md.

python -m benchmarks.tables output/benchmarks
"""

import argparse
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.goals import GOALS
from benchmarks.parts import PARTS
from utils.atomic import read_json
from utils.errors import UserError, entry_point

MISSING = "–"
MAX_CHARACTERS = 200  # of the last line of a part that did not finish
Row = dict[str, Any]


def number(name: str, digits: int = 1, scale: float = 1.0, unit: str = "") -> Callable[[Row], str]:
    """A column with the number `name` of a row."""

    def text(row: Row) -> str:
        value = row.get(name)
        return MISSING if value is None else f"{scale * value:,.{digits}f}{unit}"

    return text


def ratio(row: Row) -> str:
    if row.get("ratio") is None:
        return MISSING
    text = f"**{row['ratio']:.2f}**"
    return f"{text} ({row['ratio_low']:.2f} to {row['ratio_high']:.2f})" if "ratio_low" in row else text


@dataclass(frozen=True)
class Table:
    title: str
    parts: dict[str, str]  # name of a part -> its name in the first column
    columns: dict[str, Callable[[Row], str]]
    key: str = ""  # names the row of a part with several, e.g. its batch size

    def lines(self, contents: dict[str, Row]) -> list[str]:
        rows = []
        for part, name in self.parts.items():
            for row in contents.get(part, {}).get("rows", []):
                cells = [column(row) for column in self.columns.values()]
                if row.get("out_of_memory"):
                    cells = ["out of memory", *[MISSING] * (len(cells) - 1)]
                rows.append([name, *([str(row[self.key])] if self.key else []), *cells])
        headings = ["", *([self.key] if self.key else []), *self.columns]
        return [f"### {self.title}", "", *markdown(headings, rows), ""] if rows else []


PERCENT = {"digits": 0, "scale": 100, "unit": " %"}
TABLES = (
    Table(
        "Sampling",
        {
            "sampling_alitok_b": "AliTok-B",
            "sampling_alitok_b_small": "AliTok-B",
            "sampling_rar_b": "RAR-B",
            "sampling_titok_l32": "TiTok-L-32, a sampling step",
        },
        {
            "a position, ms": number("stage_ms", 2),
            "over the floor": number("over_floor", 2),
            "plain, ms": number("plain_ms", 2),
            "ratio": ratio,
            "codes, s": number("codes_s", 2),
            "decoder, s": number("decoder_s", 2),
            "images/s": number("images_per_s"),
            "first batches, s": number("first_batches_s", 0),
            "50,000 images, min": number("minutes", 2),
            "floor of their codes, min": number("floor_minutes", 2),
            "GiB": number("memory_gib"),
        },
        "batch",
    ),
    Table(
        "AR training",
        {f"training_{size}": f"AliTok-{size.upper()}" for size in ("b", "l", "xl")},
        {
            "a step, ms": number("step_ms", 0),
            "images/s": number("images_per_s"),
            "tokens/s": number("tokens_per_s", 0),
            "of the measured peak": number("of_measured_peak", **PERCENT),
            "of the data sheet's": number("of_data_sheet", **PERCENT),
            "measured peak, TFLOP/s": number("measured_peak_tflops", 0),
            "waiting for data": number("waiting", 1, 100, " %"),
            "GiB": number("memory_gib"),
            "plain, images/s": number("plain_images_per_s"),
            "plain, batch": number("plain_batch", 0),
            "ratio": ratio,
        },
        "batch",
    ),
    Table(
        "Tokenizer training",
        {f"tokenizer_stage{stage}": f"stage {stage}" for stage in (1, 2)},
        {
            "batch": number("batch", 0),
            "a step, ms": number("step_ms", 0),
            "images/s": number("images_per_s"),
            "waiting for data": number("waiting", 1, 100, " %"),
            "GiB": number("memory_gib"),
            "eager float32, ms": number("plain_ms", 0),
            "ratio": ratio,
        },
        "phase",
    ),
    Table(
        "Pretokenization",
        {"pretokenization": "ten crops, images/s"},
        {
            "decode": number("decode_images_per_s"),
            "transfer": number("transfer_images_per_s"),
            "encode": number("encode_images_per_s"),
            "write": number("write_images_per_s"),
            "end to end": number("images_per_s"),
            "plain loop": number("plain_images_per_s"),
            "ratio": ratio,
        },
    ),
    Table(
        "Evaluation",
        {"evaluation": "", "evaluation_precision": ""},
        {"seconds": number("seconds"), "numpy and scipy": number("plain_seconds"), "ratio": ratio},
        "metric",
    ),
    Table("Inception", {"evaluation_inception": "random weights"}, {"images/s": number("images_per_s")}, "batch"),
    Table(
        "Memory of a training step",
        {
            f"memory_{size}{suffix}": f"AliTok-{size.upper()}{note}"
            for suffix, note in (("", ""), ("_checkpoint", ", `use_checkpoint`"))
            for size in ("b", "l", "xl")
        },
        {"counted, GiB": number("counted_gib"), "measured, GiB": number("measured_gib")},
        "batch",
    ),
)


def markdown(headings: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    headings = list(headings)
    return ["| " + " | ".join(cells) + " |" for cells in (headings, ["---"] * len(headings), *rows)]


def read_results(folder: Path) -> dict[str, Row]:
    """The content of each part's file, by the part's name."""
    paths = {part.name: folder / f"{part.name}.json" for part in PARTS}
    return {name: read_json(path) for name, path in paths.items() if path.is_file()}


def goals_table(contents: dict[str, Row]) -> list[str]:
    rows = [[goal.what, goal.goal, goal.measured(contents)] for goal in GOALS]
    return markdown(("", "goal for one H100", "measured"), rows)


def _machine(contents: dict[str, Row]) -> str:
    machine = next(iter(contents.values()))["machine"]
    days = sorted({content["machine"]["date"] for content in contents.values()})
    commits = sorted({str(content["machine"]["commit"]) for content in contents.values()})
    facts = [machine["device"]]
    facts += [f"{machine[key]} {word}" for key, word in (("gpus", "GPU(s)"), ("threads", "CPU threads"))]
    facts += [f"{key} {machine[key]}" for key in ("driver", "torch", "cuda", "cudnn", "python") if machine[key]]
    return ", ".join([*facts, " and ".join(days), f"code {' and '.join(commits)}"])


def _tests(content: Row) -> list[str]:
    rows = content.get("rows", [])
    outcomes = ("passed", "failed", "skipped")
    counts = [f"{sum(row['outcome'] == outcome for row in rows)} {outcome}" for outcome in outcomes]
    details = [f"* {row['outcome']}: `{row['test']}`: {row['reason']}" for row in rows if row["outcome"] != "passed"]
    return ["### Tests on the device", "", ", ".join(counts), "", *details, *[""] * bool(details)]


def _unfinished(contents: dict[str, Row]) -> list[str]:
    lines = []
    for name, content in contents.items():
        if content["status"] != "done":
            last = (content["last_lines"] or ["no output"])[-1].strip()[:MAX_CHARACTERS]
            lines.append(f"* {name}: {content['status']} after {content['seconds']:.0f} s: {last}")
    return ["### Not finished", "", *lines, ""] if lines else []


def tables(folder: Path) -> str:
    """Markdown. Raises UserError if the folder holds no results."""
    contents = read_results(folder)
    if not contents:
        raise UserError(f"{folder} holds no results of benchmarks.all")
    lines = [_machine(contents), "", "### Goals", "", *goals_table(contents), ""]
    lines += _tests(contents["correctness"]) if "correctness" in contents else []
    for table in TABLES:
        lines += table.lines(contents)
    return "\n".join([*lines, *_unfinished(contents)]).rstrip()


@entry_point
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="--output of benchmarks.all")
    print(tables(parser.parse_args().folder))


if __name__ == "__main__":
    main()
