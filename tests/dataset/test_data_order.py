"""The order of training data is a function of the step."""

from dataset.data_order import ShuffledBatches


def test_batches_are_a_function_of_the_step():
    def batches(batch_size=4, rank=0, world_size=1, seen=0, num_batches=6):
        sampler = ShuffledBatches(
            10, batch_size, seed=1, rank=rank, world_size=world_size, seen=seen, num_batches=num_batches
        )
        return [indices.tolist() for indices, _ in sampler]

    whole = batches()
    assert batches(seen=12, num_batches=3) == whole[3:]
    other = batches(3, seen=12, num_batches=4)  # resumed with another batch size
    assert [i for batch in other for i in batch] == [i for batch in whole[3:] for i in batch]
    halves = [batches(2, rank, 2) for rank in (0, 1)]
    assert [a + b for a, b in zip(*halves, strict=True)] == whole
    seen = [i for batch in whole for i in batch]
    assert sorted(seen[:10]) == sorted(seen[10:20]) == list(range(10))
    assert seen[:10] != seen[10:20]
