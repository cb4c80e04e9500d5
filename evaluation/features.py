"""Feature extractors: what the metrics see of an image.

An extractor maps uint8 images to `Features`. ADM's is Inception; for small data sets without
Inception weights a classifier trained on the data itself stands in (its numbers compare only to
numbers made with the same classifier).
"""

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.distributed as dist
from accelerate import PartialState
from torch import Tensor
from tqdm import tqdm

from utils.errors import UserError
from utils.npz import NpzImages

KINDS = ("pool", "spatial", "logits")


@dataclass
class Features:
    """Of n images: pool (n, d) for FID, precision and recall; spatial (n, s) for sFID; logits (n, c)."""

    pool: Tensor
    spatial: Tensor
    logits: Tensor

    @staticmethod
    def concatenate(parts: list["Features"]) -> "Features":
        return Features(*(torch.cat([getattr(p, k) for p in parts]) for k in KINDS))


class Extractor(Protocol):
    name: str
    num_features: int  # of the pool features
    num_classes: int | None  # where the logits are of the classes of the data; None where they are of others

    def __call__(self, images: Tensor) -> Features:
        """images: (B, H, W, 3) uint8 -> Features on the CPU."""


def extract(extractor: Extractor, images: NpzImages, batch_size: int, description: str) -> Features | None:
    """Features of all images in their order, with a progress bar.

    Several processes take every n-th batch each; the main one gets all features, the others None.
    Raises UserError for features that are not finite, of which no metric makes anything.
    """
    state = PartialState()
    mine: dict[int, Features] = {}
    with tqdm(
        total=len(images), unit="image", desc=description, mininterval=1.0, disable=not state.is_main_process
    ) as bar:
        for number, batch in enumerate(images.batches(batch_size)):
            if number % state.num_processes == state.process_index:
                mine[number] = extractor(torch.from_numpy(batch))
            bar.update(len(batch))
    if state.num_processes > 1:
        gathered = [None] * state.num_processes if state.is_main_process else None
        dist.gather_object(mine, gathered)
        if gathered is None:
            return None
        mine = {number: features for part in gathered for number, features in part.items()}
    features = Features.concatenate([mine[number] for number in sorted(mine)])
    finite = torch.stack([getattr(features, kind).isfinite().all(1) for kind in KINDS]).all(0)
    if not finite.all():
        raise UserError(
            f"{images.path}: features of {int((~finite).sum())} images, the first of them number"
            f" {int(finite.int().argmin())}, are not finite numbers; are the weights of {extractor.name} damaged?"
        )
    return features
