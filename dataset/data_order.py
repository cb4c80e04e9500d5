"""The samples of each optimizer step: a function of seed and sample number, and of nothing else.

Samples are numbered from the start of training, and a step takes the next global batch. So a run may
be resumed with another batch size or number of processes. The number of workers, and how a global
batch is split over processes and accumulation, do not change which samples a step sees.
"""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

NUM_UNIFORMS = 3  # random numbers of each sample, for its augmentation

# indices (b,) int64, uniforms (b, NUM_UNIFORMS) float64 in [0, 1), sample numbers (b,) int64
SampleBatch = tuple[np.ndarray, np.ndarray, np.ndarray]


def evenly_spaced(total: int, count: int) -> np.ndarray:
    """At most `count` indices, spaced evenly over [0, total) and so over the classes of a sorted list."""
    return np.unique(np.linspace(0, total - 1, min(count, total)).astype(int))


def epoch_plan(seed: int, epoch: int, num_samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Order of an epoch (n,) int64, and uniform numbers (n, NUM_UNIFORMS) for each index."""
    rng = np.random.Generator(np.random.Philox(key=[seed, epoch]))
    return rng.permutation(num_samples), rng.random((num_samples, NUM_UNIFORMS))


class ShuffledBatches(Sampler):
    """Endless reshuffled epochs, cut into this rank's batches of `batch_size`.

    Epochs follow each other without a gap: a batch may hold the end of one and the start of the
    next, so every image is seen equally often.
    """

    def __init__(
        self, num_samples: int, batch_size: int, *, seed: int, rank: int, world_size: int, seen: int, num_batches: int
    ):
        """seen: samples that all ranks together have had; num_batches: of this rank, from there on."""
        self.num_samples = num_samples
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.seen = seen
        self.num_batches = num_batches
        self._plans: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[SampleBatch]:
        for batch in range(self.num_batches):
            first = self.seen + (batch * self.world_size + self.rank) * self.batch_size
            numbers = np.arange(first, first + self.batch_size)
            epochs, places = np.divmod(numbers, self.num_samples)
            order, uniforms = zip(*(self._lookup(e, p) for e, p in zip(epochs, places, strict=True)), strict=True)
            yield np.array(order), np.array(uniforms), numbers

    def _lookup(self, epoch: int, place: int) -> tuple[int, np.ndarray]:
        if epoch not in self._plans:
            self._plans = {e: plan for e, plan in self._plans.items() if e == epoch - 1}
            self._plans[epoch] = epoch_plan(self.seed, int(epoch), self.num_samples)
        order, uniforms = self._plans[epoch]
        index = order[place]
        return index, uniforms[index]
