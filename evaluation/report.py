"""ADM's five numbers for a file of samples against a reference file."""

from dataclasses import dataclass
from pathlib import Path

import torch

from evaluation.adm_metrics import (
    NEIGHBOUR,
    Statistics,
    frechet_distance,
    inception_score,
    precision_recall,
    statistics,
)
from evaluation.features import Extractor, extract
from evaluation.npz import NpzImages, read_small
from utils.errors import UserError

REFERENCE_STATISTICS = ("mu", "sigma", "mu_s", "sigma_s")


@dataclass(frozen=True)
class Report:
    inception_score: float
    fid: float
    sfid: float
    precision: float
    recall: float

    def lines(self) -> str:
        """The five lines that scripts around ADM's evaluator parse."""
        return "\n".join(
            f"{name}: {value}"
            for name, value in (
                ("Inception Score", self.inception_score),
                ("FID", self.fid),
                ("sFID", self.sfid),
                ("Precision", self.precision),
                ("Recall", self.recall),
            )
        )


def evaluate_npz(reference: str | Path, samples: str | Path, extractor: Extractor, batch_size: int) -> Report:
    """Evaluate SAMPLES.npz against REF.npz.

    Statistics stored in the reference (`mu, sigma, mu_s, sigma_s`, as in ADM's VIRTUAL files) take
    the place of those of its images.
    """
    reference_images, sample_images = NpzImages(reference), NpzImages(samples)
    stored = read_small(reference, REFERENCE_STATISTICS)
    r = extract(extractor, reference_images.batches(batch_size), len(reference_images), "reference")
    s = extract(extractor, sample_images.batches(batch_size), len(sample_images), "samples")
    for features, path in ((r, reference), (s, samples)):
        if len(features.pool) <= NEIGHBOUR:
            raise UserError(f"{path} has {len(features.pool)} images; more than {NEIGHBOUR} are needed")
    for name, theirs, ours in (
        ("pool", stored["mu"].shape[0] if "mu" in stored else r.pool.shape[1], s.pool.shape[1]),
        ("spatial", stored["mu_s"].shape[0] if "mu_s" in stored else r.spatial.shape[1], s.spatial.shape[1]),
    ):
        if theirs != ours:
            raise UserError(
                f"{reference} and {samples} do not compare: {theirs} and {ours} {name} features with {extractor.name}"
                " (another network made the reference's statistics, or the images differ in size)"
            )
    if len(stored) == len(REFERENCE_STATISTICS):
        mu, sigma, mu_s, sigma_s = (torch.from_numpy(stored[k]).double() for k in REFERENCE_STATISTICS)
        pool_statistics, spatial_statistics = Statistics(mu, sigma), Statistics(mu_s, sigma_s)
    else:
        pool_statistics, spatial_statistics = statistics(r.pool), statistics(r.spatial)
    precision, recall = precision_recall(r.pool, s.pool)
    return Report(
        inception_score(s.logits),
        frechet_distance(pool_statistics, statistics(s.pool)),
        frechet_distance(spatial_statistics, statistics(s.spatial)),
        precision,
        recall,
    )
