"""Metrics of a file of samples against a reference file."""

import sys
from pathlib import Path

import torch
from accelerate import PartialState
from torch import Tensor

from evaluation.features import Extractor, Features, extract_features
from evaluation.images import Images, open_images, require_array
from evaluation.metrics import (
    ADM_METRICS,
    ADM_VALUES,
    METRICS,
    Metric,
    MetricInputs,
    choose_metrics,
    compute_metrics,
    possible_metrics,
)
from evaluation.precision_recall import NEIGHBOUR
from evaluation.reference import Reference
from evaluation.sample_checks import SampleFacts
from utils.errors import UserError
from utils.npz import read_arrays

CUSTOMARY_SAMPLES = 50_000


class SampleEvaluation:
    """Checks reference and samples in its constructor, so that no network is loaded for a faulty file.

    Raises UserError. `run` also looks at the samples themselves and warns of what is wrong with them.
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
        self.reference = Reference(reference, array)
        for images in (self.reference.images, self.samples):
            if images is not None and len(images) <= NEIGHBOUR:
                raise UserError(f"{images.path} has {len(images)} images; more than {NEIGHBOUR} are needed")
        without_images = self.reference.images is None
        self.metrics = possible_metrics(self.metrics, self.reference.stored, without_images, reference, bool(metrics))
        needed = any(m.needs_labels for m in self.metrics)
        self.labels = read_labels(self.samples) if needed else stored_labels(self.samples)

    def run(self, extractor: Extractor, batch_size: int, bootstrap: int = 0) -> dict[str, float] | None:
        """Values by key, on the main process; None on the others. All processes extract features.

        bootstrap: resamplings for an interval of FID, 0 for none.
        """
        stored, uses_labels = self.reference.stored, any(metric.needs_labels for metric in self.metrics)
        if uses_labels:
            self._check_label_range(extractor)
        needs_images = any(metric.needs_reference_images(stored) for metric in self.metrics)
        reference = self.reference.features(extractor, batch_size) if needs_images else None
        state = PartialState()
        facts = SampleFacts(self.samples, None if self.labels is None else self.labels.numpy())
        watched = facts if state.is_main_process else self.samples  # every process reads all images
        samples = extract_features(extractor, watched, batch_size, "samples")
        if not state.is_main_process:
            return None
        found = warnings_for(self.reference.images, self.samples, extractor.num_features)
        for warning in [*found, *(fault.text for fault in facts.faults())]:
            print(f"warning: {warning}", file=sys.stderr)
        for metric in self.metrics:
            self._check_width(metric, reference, samples, extractor)
        inputs = MetricInputs(
            samples.to(state.device),
            None if reference is None else reference.to(state.device),
            {kind: statistics.to(state.device) for kind, statistics in stored.items()},
            self.labels.to(state.device) if uses_labels else None,
            bootstrap,
        )
        return compute_metrics(self.metrics, inputs)

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
        from_images = metric.needs_reference_images(self.reference.stored)
        theirs = getattr(reference, kind).shape[1] if from_images else len(self.reference.stored[kind].mu)
        ours = getattr(samples, kind).shape[1]
        if theirs != ours:
            raise UserError(
                f"{self.reference.path} has {theirs} {kind} features, {self.samples.path} has {ours} with"
                f" {extractor.name}: another network made the stored statistics, or the images differ in size"
            )


def stored_labels(samples: Images) -> Tensor | None:
    """arr_1 as the classes (n,) that the samples were drawn for; None if the file has nothing of the kind."""
    labels = None if samples.path.is_dir() else read_arrays(samples.path, ("arr_1",)).get("arr_1")
    if labels is None or labels.shape != (len(samples),) or labels.dtype.kind not in "iu":
        return None
    return torch.from_numpy(labels.astype("int64"))


def read_labels(samples: Images) -> Tensor:
    """The class (n,) that each sample was drawn for, from arr_1. Raises UserError without it."""
    labels = stored_labels(samples)
    if labels is None:
        raise UserError(f"{samples.path}: agreement needs arr_1, one integer class per image")
    return labels


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
