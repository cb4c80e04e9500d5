"""Batches are a function of seed and sample number: resume, world size, epochs."""

import numpy as np

from dataset.data_order import NUM_UNIFORMS, ShuffledBatches, evenly_spaced


def batches(batch_size=4, rank=0, world_size=1, seen=0, num_batches=6, seed=1) -> list[list[tuple]]:
    """Each batch as a list of (index, uniform numbers, sample number)."""
    sampler = ShuffledBatches(
        10, batch_size, seed=seed, rank=rank, world_size=world_size, seen=seen, num_batches=num_batches
    )
    assert len(sampler) == num_batches
    return [
        list(zip(indices.tolist(), map(tuple, uniforms.tolist()), numbers.tolist(), strict=True))
        for indices, uniforms, numbers in sampler
    ]


def flatten(parts: list[list[tuple]]) -> list[tuple]:
    return [sample for batch in parts for sample in batch]


def test_a_resumed_order_is_the_same():
    whole = batches()
    assert batches(seen=12, num_batches=3) == whole[3:]
    assert flatten(batches(3, seen=12, num_batches=4)) == flatten(whole[3:])  # another batch size


def test_the_world_size_does_not_matter():
    whole = batches()
    halves = [batches(2, rank, 2) for rank in (0, 1)]
    assert [a + b for a, b in zip(*halves, strict=True)] == whole
    # Two processes that accumulate two micro-batches of one sample see the same samples in each step.
    parts = [batches(1, rank, 2, num_batches=12) for rank in (0, 1)]
    steps = [flatten([batch for part in parts for batch in part[2 * s : 2 * s + 2]]) for s in range(6)]
    assert [sorted(step) for step in steps] == [sorted(batch) for batch in whole]


def test_numbers_count_the_samples_of_all_ranks():
    assert [number for _, _, number in flatten(batches())] == list(range(24))
    assert [number for _, _, number in flatten(batches(2, 1, 2, seen=100, num_batches=2))] == [102, 103, 106, 107]


def test_types():
    (indices, uniforms, numbers), *_ = ShuffledBatches(10, 4, seed=0, rank=0, world_size=1, seen=0, num_batches=1)
    assert (indices.dtype, uniforms.dtype, numbers.dtype) == (np.int64, np.float64, np.int64)
    assert (indices.shape, uniforms.shape, numbers.shape) == ((4,), (4, NUM_UNIFORMS), (4,))
    assert 0 <= uniforms.min() <= uniforms.max() < 1


def test_every_sample_once_an_epoch_in_a_new_order():
    samples = flatten(batches())
    first, second = ([index for index, *_ in samples[i : i + 10]] for i in (0, 10))
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second
    assert [index for index, *_ in flatten(batches(seed=2))][:10] != first
    uniforms = {index: u for index, u, _ in samples[:10]}
    assert all(uniforms[index] != u for index, u, _ in samples[10:20])


def test_evenly_spaced():
    assert evenly_spaced(10, 4).tolist() == [0, 3, 6, 9]
    assert evenly_spaced(3, 10).tolist() == [0, 1, 2]
    assert evenly_spaced(1000, 1).tolist() == [0]
