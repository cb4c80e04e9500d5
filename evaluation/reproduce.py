"""Reproduce a published row: find the weights, draw the samples, check them, evaluate them, print the row.

python -m evaluation.reproduce alitok_b --processes 8
python -m evaluation.reproduce --list
"""

import argparse
import os
import shlex
import subprocess
import sys
from pathlib import Path

from evaluation.evaluate_samples import stored_labels
from evaluation.extractors import ClassifierExtractor, InceptionExtractor, inception_weights
from evaluation.images import open_images
from evaluation.metrics import METRICS
from evaluation.published import (
    ROWS_FILE,
    Row,
    RowFiles,
    Table,
    find_files,
    metrics_of,
    read_table,
    reference_faults,
)
from evaluation.reference import Reference
from evaluation.sample_checks import Expected, Fault, SampleFacts
from modeling.configs import read_models_config
from utils.arguments import at_least, file_path
from utils.atomic import read_json, write_json
from utils.errors import UserError, entry_point, warn

EVALUATOR = "guided-diffusion/evaluations/evaluator.py"
BATCH_SIZE = 64
USAGE_ERROR = 2  # exit code of a program that refused its files or options


def launch(processes: int, *command: object) -> None:
    """Print a command, run it on this machine and wait for it. Raises UserError if it fails."""
    words = [sys.executable]
    if processes > 1:
        words += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    words += map(str, command)
    print(f"\n$ {shlex.join(words)}", flush=True)
    code = subprocess.run(words).returncode
    if code:
        hint = "its message is above" if code == USAGE_ERROR else "run the same command to resume"
        raise UserError(f"{command[0]} ended with exit code {code}; {hint}")


def refuse_or_warn(faults: list[Fault]) -> None:
    """Print all faults; raise UserError if one of them is fatal."""
    fatal = [fault.text for fault in faults if fault.fatal]
    for fault in faults:
        if not fault.fatal:
            warn(f"warning: {fault.text}")
    if fatal:
        raise UserError(f"no metrics: {'; '.join(fatal)}")


def draw_samples(row: Row, files: RowFiles, output: Path, processes: int, overrides: list[str]) -> Path:
    """Run the ordinary script with the row's settings; it resumes by itself. Returns the .npz."""
    launch(
        processes,
        "sample_imagenet.py",
        f"config={row.config}",
        f"experiment.generator_checkpoint={files.generator}",
        f"experiment.tokenizer_checkpoint={files.tokenizer}",
        f"experiment.output_dir={output}",
        f"sampling.num_samples={row.num_samples}",
        *overrides,
    )
    return Path(f"{output}.npz")


def check_samples(path: Path, expected: Expected) -> None:
    """Look at all samples before any metric. Raises UserError if metrics would say nothing about the model."""
    images = open_images(path)
    labels = stored_labels(images)
    facts = SampleFacts(images, None if labels is None else labels.numpy())
    for _ in facts.batches(BATCH_SIZE):
        pass
    print(f"samples   {facts.describe()}", flush=True)
    refuse_or_warn(facts.faults(expected))


def row_lines(table: Table, row: Row, values: dict[str, float]) -> list[str]:
    """Published value, ours and scatter of each metric, and what they mean."""
    titles = {key: title for metric in METRICS.values() for key, title in metric.titles.items()}
    lines = [f"{row.model:<28}{'published':>10}{'ours':>10}   scatter to expect"]
    for key, title in titles.items():
        if key in values:
            published = f"{row.expected[key]:g}" if key in row.expected else "–"
            meaning = verdict(table, row, key, values[key]) if key in row.expected else ""
            lines.append(f"{title:<28}{published:>10}{values[key]:>10.4g}   {meaning}".rstrip())
    return [*lines, *([f"note: {row.note}"] if row.note else [])]


def verdict(table: Table, row: Row, key: str, value: float) -> str:
    """Whether a value is within the scatter of the published one, in words."""
    scatter, difference = table.scatter_of(row, key), value - row.expected[key]
    if scatter is None:
        return f"not measured; the difference is {difference:+.2g}"
    return f"± {scatter:.2g}, {'within it' if abs(difference) <= scatter else f'outside: {difference:+.2g}'}"


def reproduce(args: argparse.Namespace) -> None:
    table = read_table(args.rows)
    row = table.row(args.name)
    files = find_files(table, row, args.weights, args.reference)
    models = read_models_config(row.config)
    reference, image_size = Reference(files.reference), models.vq_model.image_size
    print(f"weights   {files.generator}, {files.tokenizer}")
    print(f"reference {reference.describe()}")
    refuse_or_warn([*reference_faults(reference, table.references[row.reference], image_size)])
    reference.require_network(ClassifierExtractor(files.classifier) if files.classifier else InceptionExtractor)
    metrics = metrics_of(row, reference)
    if not files.classifier and inception_weights(args.inception, download=False) is None:
        warn("warning: Inception's weights are not here; the evaluation will download them (or name them: --inception)")
    if args.overrides:
        warn(f"warning: not the published settings: {' '.join(args.overrides)}")
    output = args.output / args.name
    samples = draw_samples(row, files, output, args.processes, args.overrides)
    check_samples(samples, Expected(row.num_samples, image_size, models.generator.condition_num_classes))
    numbers = output / "evaluation.json"
    network = ("--classifier", files.classifier) if files.classifier else ()
    network = ("--inception", args.inception) if args.inception and not network else network
    launch(
        args.processes,
        *(EVALUATOR, files.reference, samples, "--metrics", ",".join(metrics), "--json", numbers),
        *("--bootstrap", args.bootstrap, *network),
    )
    values = read_json(numbers)
    result = {"row": args.name, "expected": dict(row.expected), "ours": values, "reference": reference.describe()}
    write_json(args.output / f"{args.name}.json", {**result, "overrides": args.overrides})
    print("\n" + "\n".join(row_lines(table, row, values)))


@entry_point
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("name", nargs="?", metavar="NAME", help="a row of evaluation/published.yaml; --list prints them")
    add(
        "overrides", nargs="*", metavar="dotted.key=value", help="for sample_imagenet.py, in place of what is published"
    )
    add("--list", action="store_true", help="print the rows and end")
    add("--rows", type=file_path, default=ROWS_FILE, help="another table of rows")
    add("--weights", type=file_path, action="append", default=[], help="folder to search first; may be repeated")
    add("--reference", type=file_path, help="reference file, if it lies elsewhere")
    add("--inception", type=file_path, help="Inception weights; default: as the evaluator finds them")
    add("--output", type=file_path, default=Path("output/reproduce"), help="folder (default: output/reproduce)")
    add("--processes", type=at_least(1), default=1, help="processes on this machine, one per GPU (default: 1)")
    add("--bootstrap", type=at_least(0), default=0, help="resamplings for an interval of our FID, e.g. 100")
    args = parser.parse_intermixed_args()  # overrides may come after flags
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("evaluation.reproduce starts its processes itself: run it with python and --processes N")
    if args.list:
        table = read_table(args.rows)
        for name, row in table.rows.items():
            print(f"{name:<12} {row.model:<26} {', '.join(f'{key} {value:g}' for key, value in row.expected.items())}")
        return
    if args.name is None:
        raise UserError("name a row, for instance alitok_b; --list prints all")
    reproduce(args)


if __name__ == "__main__":
    main()
