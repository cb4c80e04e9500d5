"""Registry of the metrics of samples: what each one needs, computes and prints.

A new metric is a file with its formula and an entry in METRICS.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor

from evaluation.bootstrap import fid_interval
from evaluation.class_agreement import class_agreement
from evaluation.features import Features
from evaluation.fid import Statistics, frechet_distance
from evaluation.inception_score import inception_score
from evaluation.kid import kernel_distance
from evaluation.precision_recall import precision_recall
from utils.errors import UserError, nearest, warn


@dataclass(frozen=True)
class MetricInputs:
    """What a metric may read, on one device."""

    samples: Features
    reference: Features | None  # None if no chosen metric needs the reference images
    stored: dict[str, Statistics]  # by kind of features; empty if the reference file holds none
    labels: Tensor | None  # (n,) classes the samples were drawn for; None if no chosen metric needs them
    resamplings: int  # for the interval of FID; 0 for no interval

    def reference_statistics(self, kind: str) -> Statistics:
        return self.stored[kind] if kind in self.stored else Statistics.from_features(getattr(self.reference, kind))


@dataclass(frozen=True)
class Metric:
    titles: dict[str, str]
    """Key of each value -> title it is printed with."""
    compute: Callable[[MetricInputs], tuple[float, ...]]
    """Returns the values in the order of `titles`; the last ones may be missing."""
    features: Literal["pool", "spatial", "logits"]
    reference: Literal["nothing", "statistics", "images"] = "nothing"
    """What it needs of the reference file; "statistics" are computed from the images if none are stored."""
    needs_labels: bool = False

    def needs_reference_images(self, stored: Collection[str]) -> bool:
        """stored: kinds of features with statistics in the reference file."""
        return self.reference == "images" or (self.reference == "statistics" and self.features not in stored)


def _fid(x: MetricInputs) -> tuple[float, ...]:
    reference, pool = x.reference_statistics("pool"), x.samples.pool
    fid = frechet_distance(reference, Statistics.from_features(pool))
    return (fid, *fid_interval(reference, pool, x.resamplings)) if x.resamplings else (fid,)


def _sfid(x: MetricInputs) -> tuple[float, ...]:
    return (frechet_distance(x.reference_statistics("spatial"), Statistics.from_features(x.samples.spatial)),)


METRICS = {
    "is": Metric(
        {"inception_score": "Inception Score"},
        lambda x: (inception_score(x.samples.logits),),
        features="logits",
    ),
    "fid": Metric(
        {"fid": "FID", "fid_low": "FID, 95 % interval from", "fid_high": "FID, 95 % interval to"},
        _fid,
        features="pool",
        reference="statistics",
    ),
    "sfid": Metric({"sfid": "sFID"}, _sfid, features="spatial", reference="statistics"),
    "pr": Metric(
        {"precision": "Precision", "recall": "Recall"},
        lambda x: precision_recall(x.reference.pool, x.samples.pool),
        features="pool",
        reference="images",
    ),
    "kid": Metric(
        {"kid": "KID", "kid_std": "KID, standard deviation over subsets"},
        lambda x: kernel_distance(x.reference.pool, x.samples.pool),
        features="pool",
        reference="images",
    ),
    "agreement": Metric(
        {"agreement": "Class agreement"},
        lambda x: (class_agreement(x.samples.logits, x.labels),),
        features="logits",
        needs_labels=True,
    ),
}
ADM_METRICS = ("is", "fid", "sfid", "pr")
ADM_VALUES = ("inception_score", "fid", "sfid", "precision", "recall")  # as ADM's evaluator prints them


def choose_metrics(names: tuple[str, ...]) -> list[Metric]:
    """The named entries of METRICS, in its order. Raises UserError for an unknown name."""
    for name in names:
        if name not in METRICS:
            raise UserError(f"unknown metric '{name}': choose from {','.join(METRICS)}{nearest(name, METRICS)}")
    return [metric for name, metric in METRICS.items() if name in names]


def possible_metrics(
    metrics: list[Metric], stored: Collection[str], without_images: bool, reference: str | Path, asked_for: bool
) -> list[Metric]:
    """Those that the reference allows; without images some cannot be computed.

    stored: kinds of features with statistics in the reference. asked_for: raise UserError for what is impossible,
    in place of a warning.
    """
    impossible = [metric for metric in metrics if without_images and metric.needs_reference_images(stored)]
    if not impossible:
        return metrics
    without = ", ".join(title for metric in impossible for title in metric.titles.values())
    if asked_for:
        raise UserError(f"{reference} holds only statistics of {', '.join(stored)} features: no {without}")
    warn(f"warning: {reference} holds only statistics: no {without}")
    return [metric for metric in metrics if metric not in impossible]


def compute_metrics(metrics: list[Metric], inputs: MetricInputs) -> dict[str, float]:
    """Values by key."""
    values: dict[str, float] = {}
    for metric in metrics:
        values |= dict(zip(metric.titles, metric.compute(inputs), strict=False))
    return values
