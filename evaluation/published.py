"""The rows of `published.yaml`: published values, and the files that a reproduction needs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import MISSING, OmegaConf

from evaluation.metrics import METRICS, possible_metrics
from evaluation.reference import Reference
from evaluation.sample_checks import Fault
from utils.config import compose, option
from utils.errors import UserError, nearest
from utils.yaml_files import read_yaml

ROWS_FILE = Path(__file__).with_name("published.yaml")
FOLDERS = ("weights", ".")  # where files are looked for


@dataclass
class PublishedReference:
    file: str = option(MISSING, "name, or path from the working directory")
    source: str = option(MISSING, "where to get it, in words")
    images: int = option(MISSING, "number of images in it", min=1)
    stored_statistics: bool = option(False, "FID compares with its stored statistics, not with its images")


@dataclass
class Row:
    model: str = option(MISSING, "name in tables")
    parameters: int | None = option(None, "of the generator, in millions")
    config: str = option(MISSING, "configuration with the published settings of sampling")
    generator: str = option(MISSING, "file name of the weights")
    tokenizer: str = option(MISSING, "file name of the weights")
    source: str = option(MISSING, "key of `sources`: where to get the weights")
    num_samples: int = option(50000, "images", min=1)
    reference: str = option("imagenet256", "key of `references`")
    classifier: str | None = option(None, "features of this classifier in place of Inception's")
    expected: dict[str, float] = option({}, "published values by key of the metrics")
    scatter: dict[str, float] = option({}, "in place of the table's, shares of the values")
    note: str | None = option(None, "printed below the row")


@dataclass
class Table:
    scatter: dict[str, float] = option({}, "share of a value by which equal models may differ")
    sources: dict[str, str] = option({}, "where weights are, in words")
    references: dict[str, PublishedReference] = option({}, "reference files")
    rows: dict[str, Row] = option({}, "published models")

    def row(self, name: str) -> Row:
        """Raises UserError for an unknown name."""
        if name not in self.rows:
            raise UserError(f"there is no row '{name}'{nearest(name, self.rows)} (choose {', '.join(self.rows)})")
        return self.rows[name]

    def scatter_of(self, row: Row, metric: str) -> float | None:
        """How far a reproduction may be from the value of a metric, in the metric's unit; None if it is not known."""
        share = (row.scatter or self.scatter).get(metric)
        return None if share is None else share * row.expected[metric]


def read_table(path: str | Path = ROWS_FILE) -> Table:
    """Raises UserError if a row names a source, reference or metric that does not exist."""
    table: Table = OmegaConf.to_object(compose(Table, read_yaml(path), [], str(path)))
    metrics = [key for metric in METRICS.values() for key in metric.titles]
    for name, row in table.rows.items():
        for what, key, known in (
            ("source", row.source, table.sources),
            ("reference", row.reference, table.references),
            *(("metric", key, metrics) for key in (*row.expected, *row.scatter)),
        ):
            if key not in known:
                raise UserError(f"{path}: rows.{name}: there is no {what} '{key}'{nearest(key, known)}")
    return table


def metrics_of(row: Row, reference: Reference) -> list[str]:
    """Names in METRICS of ADM's metrics and of all whose values the row has, without those that the reference does
    not allow."""
    wanted = {"inception_score", "fid", "sfid", "precision", *row.expected}
    metrics = [metric for metric in METRICS.values() if wanted & set(metric.titles)]
    possible = possible_metrics(metrics, reference.stored, reference.images is None, reference.path, False)
    return [name for name, metric in METRICS.items() if metric in possible]


@dataclass(frozen=True)
class RowFiles:
    generator: Path
    tokenizer: Path
    reference: Path
    classifier: Path | None


def find_files(
    table: Table, row: Row, folders: Sequence[str | Path] = (), reference: str | Path | None = None
) -> RowFiles:
    """The files that a row needs. folders: searched first; reference: in place of the row's.

    Raises UserError that names all missing files and where to get them.
    """
    for flag, paths in (("--weights", folders), ("--reference", [reference] if reference else [])):
        for path in paths:
            if not Path(path).exists():
                raise UserError(f"{flag} {path}: there is no such file or folder")
    published = table.references[row.reference]
    wanted = {
        "generator": (row.generator, table.sources[row.source]),
        "tokenizer": (row.tokenizer, table.sources[row.source]),
        "reference": (published.file, published.source),
        "classifier": (row.classifier, table.sources[row.source]),
    }
    if reference:
        wanted.pop("reference")
    found, missing = {"reference": reference and Path(reference)}, {}
    for what, (name, source) in wanted.items():
        places = [Path(folder) / name for folder in (*folders, *FOLDERS)] if name else []
        found[what] = next((path for path in places if path.exists()), None)
        if name and found[what] is None:
            missing.setdefault(source, []).append(name)
    if missing:
        parts = "; ".join(f"{' and '.join(names)} from {source}" for source, names in missing.items())
        searched = ", ".join(map(str, (*folders, *FOLDERS)))
        raise UserError(f"{row.model} needs files that are not in {searched}: get {parts}")
    return RowFiles(**found)


def reference_faults(reference: Reference, published: PublishedReference, image_size: int) -> Iterator[Fault]:
    """Why the published values do not compare with this reference, in words."""
    if published.stored_statistics and "pool" not in reference.stored:
        text = "holds images and no statistics: the published value compares with statistics of the training set"
        yield Fault(f"{reference.path} {text}. Get {published.source}", True)
    if reference.image_size not in (None, (image_size, image_size)):
        height, width = reference.image_size
        yield Fault(f"{reference.path} has images of {width}x{height}, the model's are of {image_size}", True)
    if reference.images is not None and len(reference.images) != published.images:
        yield Fault(
            f"{reference.path} has {len(reference.images)} images, the published file {published.images}", False
        )
