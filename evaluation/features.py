"""Features of images, which all metrics of samples are computed from."""

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.distributed as dist
from accelerate import PartialState
from torch import Tensor

from evaluation.images import Images
from utils.errors import UserError
from utils.progress import tqdm

KINDS = ("pool", "spatial", "logits")


@dataclass
class Features:
    """Features of n images: pool (n, d), spatial (n, s) for sFID, logits (n, classes)."""

    pool: Tensor
    spatial: Tensor
    logits: Tensor

    def to(self, device: torch.device) -> "Features":
        return Features(*(getattr(self, kind).to(device) for kind in KINDS))

    @staticmethod
    def concatenate(parts: list["Features"]) -> "Features":
        return Features(*(torch.cat([getattr(p, kind) for p in parts]) for kind in KINDS))


class Extractor(Protocol):
    """Numbers of different extractors do not compare."""

    name: str
    num_features: int  # width of the pool features
    num_classes: int | None  # number of data-set classes; None if the logits are for other classes (Inception)

    def __call__(self, images: Tensor) -> Features:
        """images: (B, H, W, 3) uint8 -> Features on the CPU."""


def extract_features(extractor: Extractor, images: Images, batch_size: int, description: str) -> Features | None:
    """Features of all images in their order, with a progress bar.

    Rank r of n takes batches r, r + n, ...; the main process gets all features, the others None.
    Raises UserError if any feature is NaN or infinite.
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
            f"{images.path}: the features of {int((~finite).sum())} images are NaN or infinite, first those of image"
            f" {int(finite.int().argmin())}. Are the weights of {extractor.name} damaged?"
        )
    return features
