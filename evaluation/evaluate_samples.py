"""Metrics of a file of samples against a reference file."""

import sys
from pathlib import Path

import torch
from accelerate import PartialState
from torch import Tensor

from evaluation.features import Extractor, Features, extract_features
from evaluation.fid import read_statistics
from evaluation.images import Images, open_images, require_array
from evaluation.metrics import ADM_METRICS, ADM_VALUES, METRICS, Metric, MetricInputs, choose_metrics
from evaluation.precision_recall import NEIGHBOUR
from utils.errors import UserError, warn
from utils.npz import IMAGES, array_names, read_arrays

CUSTOMARY_SAMPLES = 50_000


class SampleEvaluation:
    """Checks reference and samples in its constructor, so that no network is loaded for a faulty file.

    Statistics stored in the reference (`mu, sigma, mu_s, sigma_s`, as in ADM's VIRTUAL files) replace those of
    its images. Raises UserError.
    """

    def __init__(
        self,
        reference: str | Path,
        samples: str | Path,
        metrics: tuple[str, ...] | None = None,
        array: str | None = None,
    ):
        """reference, samples: .npz files or folders of images. array: see `open_images`.

        metrics: names in METRICS; None: ADM's, without those that need images if the reference holds only statistics.
        """
        self.metrics = choose_metrics(metrics or ADM_METRICS)
        if array is not None:
            require_array(array, (reference, samples))
        self.samples = open_images(samples, array)
        self.reference_path = reference
        self.stored = {} if Path(reference).is_dir() else read_statistics(reference)
        only_statistics = self.stored and not {IMAGES, array} & {*array_names(reference)}
        self.reference = None if only_statistics else open_images(reference, array)
        for images in (self.reference, self.samples):
            if images is not None and len(images) <= NEIGHBOUR:
                raise UserError(f"{images.path} has {len(images)} images; more than {NEIGHBOUR} are needed")
        impossible = [m for m in self.metrics if self.reference is None and m.needs_reference_images(self.stored)]
        if impossible:
            without = ", ".join(title for metric in impossible for title in metric.titles.values())
            if metrics:
                raise UserError(f"{reference} holds only statistics of {', '.join(self.stored)} features: no {without}")
            warn(f"warning: {reference} holds only statistics: no {without}")
            self.metrics = [metric for metric in self.metrics if metric not in impossible]
        self.labels = _read_labels(self.samples) if any(m.needs_labels for m in self.metrics) else None

    def run(self, extractor: Extractor, batch_size: int, bootstrap: int = 0) -> dict[str, float] | None:
        """Values by key, on the main process; None on the others. All processes extract features.

        bootstrap: resamplings for an interval of FID, 0 for none.
        """
        if self.labels is not None:
            self._check_label_range(extractor)
        needs_images = any(metric.needs_reference_images(self.stored) for metric in self.metrics)
        reference = extract_features(extractor, self.reference, batch_size, "reference") if needs_images else None
        samples = extract_features(extractor, self.samples, batch_size, "samples")
        state = PartialState()
        if not state.is_main_process:
            return None
        for warning in warnings_for(self.reference, self.samples, extractor.num_features):
            print(f"warning: {warning}", file=sys.stderr)
        for metric in self.metrics:
            self._check_width(metric, reference, samples, extractor)
        inputs = MetricInputs(
            samples.to(state.device),
            None if reference is None else reference.to(state.device),
            {kind: statistics.to(state.device) for kind, statistics in self.stored.items()},
            None if self.labels is None else self.labels.to(state.device),
            bootstrap,
        )
        values: dict[str, float] = {}
        for metric in self.metrics:
            values |= dict(zip(metric.titles, metric.compute(inputs), strict=False))
        return values

    def _check_label_range(self, extractor: Extractor) -> None:
        if self.labels.min() < 0 or self.labels.max() >= extractor.num_classes:
            raise UserError(
                f"{self.samples.path}: classes are {int(self.labels.min())} to {int(self.labels.max())} in arr_1, the"
                f" classifier has {extractor.num_classes} classes"
            )

    def _check_width(self, metric: Metric, reference: Features | None, samples: Features, extractor: Extractor) -> None:
        if metric.reference == "nothing":
            return
        kind = metric.features
        from_images = metric.needs_reference_images(self.stored)
        theirs = getattr(reference, kind).shape[1] if from_images else len(self.stored[kind].mu)
        ours = getattr(samples, kind).shape[1]
        if theirs != ours:
            raise UserError(
                f"{self.reference_path} has {theirs} {kind} features, {self.samples.path} has {ours} with"
                f" {extractor.name}: another network made the stored statistics, or the images differ in size"
            )


def _read_labels(samples: Images) -> Tensor:
    """The class (n,) that each sample was drawn for, from arr_1."""
    labels = None if samples.path.is_dir() else read_arrays(samples.path, ("arr_1",)).get("arr_1")
    if labels is None or labels.shape != (len(samples),) or labels.dtype.kind not in "iu":
        raise UserError(f"{samples.path}: agreement needs arr_1, one integer class per image")
    return torch.from_numpy(labels.astype("int64"))


def warnings_for(reference: Images | None, samples: Images, num_features: int) -> list[str]:
    """Why these numbers may not compare to published ones."""
    found, n = [], len(samples)
    if n < num_features:
        found.append(f"{n} samples for {num_features} features: their covariance is singular, FID far too high")
    elif abs(n - CUSTOMARY_SAMPLES) > CUSTOMARY_SAMPLES // 10:
        found.append(f"{n} samples: FID depends on their number, and published values use {CUSTOMARY_SAMPLES}")
    if reference is not None and samples.shape[1:] != reference.shape[1:]:
        sizes = [f"{shape[2]}x{shape[1]}" for shape in (samples.shape, reference.shape)]
        found.append(f"samples are {sizes[0]}, reference images {sizes[1]}: resizing changes every number")
    return found


def report_lines(values: dict[str, float]) -> str:
    """`title: value` lines; ADM's five come last and in ADM's order, as scripts parse them."""
    titles = {key: title for metric in METRICS.values() for key, title in metric.titles.items()}
    keys = sorted((key for key in titles if key in values), key=lambda key: key in ADM_VALUES)
    return "\n".join(f"{titles[key]}: {values[key]}" for key in keys)
