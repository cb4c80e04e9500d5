"""One point of a sweep: features of samples drawn with one set of settings, shard by shard, then its metrics."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState

from evaluation.features import KINDS, Extractor, Features
from sampling.pipeline import Pipeline
from sampling.shards import choose_shard_size
from utils.atomic import read_json, write_atomically
from utils.errors import UserError
from utils.images import to_bytes
from utils.npz import read_arrays
from utils.progress import tqdm
from utils.sharded_output import ShardedOutput, explain_write_errors


class PointFeatures(ShardedOutput):
    """FOLDER/point.json with the metrics, and until then FOLDER/shards/*.npz with features; images are not kept."""

    def __init__(self, folder: Path, num_samples: int, identity: dict[str, Any]):
        """identity: what decides the samples and the metrics."""
        shard_size = choose_shard_size(num_samples)
        identity = {**identity, "num_samples": num_samples, "shard_size": shard_size}
        super().__init__(folder / "point.json", folder / "shards", identity, num_samples, shard_size, suffix=".npz")

    def write(self, shard: int, features: Features) -> None:
        path = self.shard_file(shard)
        arrays = {kind: getattr(features, kind).numpy() for kind in KINDS}
        with explain_write_errors(path):
            write_atomically(path, lambda file: np.savez(file, **arrays))

    def read(self) -> Features:
        """Features of all samples in their order. Raises UserError for a damaged shard."""
        self.wait_for_shards()
        parts = []
        for shard in range(self.num_shards):
            arrays = read_arrays(self.shard_file(shard), KINDS)
            if any(len(arrays.get(kind, ())) != len(self.items(shard)) for kind in KINDS):
                raise UserError(f"{self.shard_file(shard)} is damaged: remove it and run again")
            parts.append(Features(*(torch.from_numpy(arrays[kind]) for kind in KINDS)))
        return Features.concatenate(parts)

    def values(self) -> dict[str, float]:
        """The metrics of a complete point."""
        return read_json(self.record)["values"]


def draw_features(
    pipeline: Pipeline, extractor: Extractor, point: PointFeatures, classes: list[int], title: str, state: PartialState
) -> None:
    """Draw this process's shards of missing samples, and keep their features. Image i has noise i in every point."""
    mine = point.claim(state)
    total = sum(len(point.items(shard)) for shard in mine)
    with tqdm(total=total, unit="image", desc=title, mininterval=1.0, disable=not state.is_main_process) as bar:
        for shard in mine:
            ids, parts = point.items(shard), []
            for start in range(0, len(ids), pipeline.batch_size):
                chosen = ids[start : start + pipeline.batch_size]
                images = to_bytes(pipeline.generate([classes[i] for i in chosen], chosen))
                parts.append(extractor(images.cpu()))
                bar.update(len(chosen))
            point.write(shard, Features.concatenate(parts))
    state.wait_for_everyone()
