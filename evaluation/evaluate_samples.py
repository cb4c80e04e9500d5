"""ADM's numbers, and some more, for a file of samples against a reference file."""

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import PartialState

from evaluation.adm_metrics import (
    NEIGHBOUR,
    Statistics,
    frechet_distance,
    inception_score,
    precision_recall,
    statistics,
)
from evaluation.bootstrap import fid_interval
from evaluation.features import Extractor, Features, extract
from evaluation.kid import kernel_distance
from utils.errors import UserError
from utils.npz import NpzImages, read_small

REFERENCE_STATISTICS = ("mu", "sigma", "mu_s", "sigma_s")
CUSTOMARY_SAMPLES = 50_000
METRICS = ("is", "fid", "sfid", "pr", "kid", "agreement")
ADM_METRICS = METRICS[:4]
ADM_NAMES = {
    "inception_score": "Inception Score",
    "fid": "FID",
    "sfid": "sFID",
    "precision": "Precision",
    "recall": "Recall",
}
OTHER_NAMES = {
    "agreement": "Class agreement",
    "kid": "KID",
    "kid_std": "KID, standard deviation over subsets",
    "fid_low": "FID, 95 % interval from",
    "fid_high": "FID, 95 % interval to",
}


@dataclass(frozen=True)
class Report:
    values: dict[str, float]

    def lines(self) -> str:
        """`name: value` lines; ADM's five, which scripts parse, come last and in ADM's order."""
        names = OTHER_NAMES | ADM_NAMES
        return "\n".join(f"{name}: {self.values[key]}" for key, name in names.items() if key in self.values)


def warnings_for(reference: NpzImages, samples: NpzImages, num_features: int) -> list[str]:
    """What makes these numbers mean less than they seem to."""
    found, n = [], len(samples)
    if n < num_features:
        found.append(f"{n} samples for {num_features} features: their covariance is singular, FID far too high")
    elif abs(n - CUSTOMARY_SAMPLES) > CUSTOMARY_SAMPLES // 10:
        found.append(f"{n} samples: FID depends on the number, and published values are of {CUSTOMARY_SAMPLES}")
    if samples.shape[1:] != reference.shape[1:]:
        sizes = [f"{shape[2]}x{shape[1]}" for shape in (samples.shape, reference.shape)]
        found.append(f"samples are {sizes[0]}, reference images {sizes[1]}: resizing shows in every number")
    return found


def _check_width(name: str, stored: torch.Tensor | None, ours: int, reference: object, extractor: Extractor) -> None:
    if stored is not None and len(stored) != ours:
        raise UserError(
            f"{reference}: its statistics are of {len(stored)} {name} features, the samples have {ours} with"
            f" {extractor.name}: another network made them, or the images differ in size"
        )


def evaluate_npz(
    reference: str | Path,
    samples: str | Path,
    extractor: Extractor,
    batch_size: int,
    *,
    metrics: tuple[str, ...] = ADM_METRICS,
    bootstrap: int = 0,
) -> Report | None:
    """Evaluate SAMPLES.npz against REF.npz on all processes; the main one gets the report, others None.

    metrics: of `METRICS`; bootstrap: resamplings for an interval of FID, 0 for none.
    Statistics stored in the reference (`mu, sigma, mu_s, sigma_s`, as in ADM's VIRTUAL files) take
    the place of those of its images. Raises UserError.
    """
    unknown = set(metrics) - set(METRICS)
    if unknown or not metrics:
        raise UserError(f"unknown metrics {','.join(sorted(unknown))}: choose of {','.join(METRICS)}")
    state = PartialState()
    reference_images, sample_images = NpzImages(reference), NpzImages(samples)
    for images in (reference_images, sample_images):
        if len(images) <= NEIGHBOUR:
            raise UserError(f"{images.path} has {len(images)} images; more than {NEIGHBOUR} are needed")
    stored = {k: torch.from_numpy(v).double() for k, v in read_small(reference, REFERENCE_STATISTICS).items()}
    if len(stored) < len(REFERENCE_STATISTICS):
        stored = {}
    labels = _sample_classes(samples, sample_images, extractor) if "agreement" in metrics else None
    needs_images = {"pr", "kid"} & set(metrics) or ({"fid", "sfid"} & set(metrics) and not stored)
    r = extract(extractor, reference_images, batch_size, "reference") if needs_images else None
    s = extract(extractor, sample_images, batch_size, "samples")
    if not state.is_main_process:
        return None
    for warning in warnings_for(reference_images, sample_images, extractor.num_features):
        print(f"warning: {warning}", file=sys.stderr)
    _check_width("pool", stored.get("mu"), s.pool.shape[1], reference, extractor)
    _check_width("spatial", stored.get("mu_s"), s.spatial.shape[1], reference, extractor)
    if r is not None and "sfid" in metrics and not stored and r.spatial.shape[1] != s.spatial.shape[1]:
        raise UserError(f"{reference} and {samples} do not compare: images of different sizes have no common sFID")
    values = _compute(r, s, stored, metrics, bootstrap, state.device)
    if labels is not None:
        values["agreement"] = float((s.logits.argmax(1) == labels).double().mean())
    return Report(values)


def _sample_classes(path: str | Path, images: NpzImages, extractor: Extractor) -> torch.Tensor:
    """The classes that samples were drawn for, `arr_1` (n,), where the network can judge them."""
    labels = read_small(path, ("arr_1",)).get("arr_1")
    if extractor.num_classes is None:
        raise UserError(f"agreement: {extractor.name} does not know the data's classes; it takes --classifier")
    if labels is None or labels.shape != (len(images),):
        raise UserError(f"agreement: {path} does not tell the class of each image (arr_1)")
    if labels.min() < 0 or labels.max() >= extractor.num_classes:
        raise UserError(f"agreement: {path} has class {labels.max()}, the classifier {extractor.num_classes} classes")
    return torch.from_numpy(labels)


def _compute(
    r: Features | None,
    s: Features,
    stored: dict[str, torch.Tensor],
    metrics: tuple[str, ...],
    bootstrap: int,
    device: torch.device,
) -> dict[str, float]:
    def target_statistics(ending: str, kind: str) -> Statistics:
        if stored:
            return Statistics(stored[f"mu{ending}"].to(device), stored[f"sigma{ending}"].to(device))
        return statistics(getattr(r, kind).to(device))

    values: dict[str, float] = {}
    pool = s.pool.to(device)
    if "is" in metrics:
        values["inception_score"] = inception_score(s.logits)
    if "fid" in metrics:
        target = target_statistics("", "pool")
        values["fid"] = frechet_distance(target, statistics(pool))
        if bootstrap:
            values["fid_low"], values["fid_high"] = fid_interval(target, pool, bootstrap)
    if "sfid" in metrics:
        values["sfid"] = frechet_distance(target_statistics("_s", "spatial"), statistics(s.spatial.to(device)))
    if "pr" in metrics:
        values["precision"], values["recall"] = precision_recall(r.pool.to(device), pool)
    if "kid" in metrics:
        values["kid"], values["kid_std"] = kernel_distance(r.pool.to(device), pool)
    return values
