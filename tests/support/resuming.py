"""An interrupted training must end exactly as one that was not interrupted."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from training.checkpoint_files import load_checkpoint_weights, load_training_state

RESUME = "experiment.resume=auto"


def assert_equal_checkpoints(a: Path, b: Path) -> None:
    """The same step, weights, averages, optimizers and counters, bit for bit."""
    assert a.name == b.name
    files = {p.name for p in a.iterdir()}
    assert files == {p.name for p in b.iterdir()}
    assert "model.safetensors" in files
    for name in sorted(files):
        if name.endswith(".safetensors"):
            one, two = (load_checkpoint_weights(folder, name.removesuffix(".safetensors")) for folder in (a, b))
            assert_equal(one, two)
    assert_equal(load_training_state(a), load_training_state(b))


def assert_equal(one: Any, two: Any) -> None:
    """Compare nested dictionaries and lists of tensors and plain values."""
    assert type(one) is type(two)
    if isinstance(one, dict):
        assert one.keys() == two.keys()
        for key, value in one.items():
            assert_equal(value, two[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(two)
        for x, y in zip(one, two, strict=True):
            assert_equal(x, y)
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, two)
    else:
        assert one == two


def interrupted(build: Callable[..., Any], stop_at: int) -> Any:
    """Train to the step `stop_at`, drop everything but the checkpoint, and train to the end.

    build(name, *overrides) returns a trainer that writes to the folder `name`.
    """
    first = build("parts", RESUME)
    total, first.total_steps = first.total_steps, stop_at
    first.run()
    second = build("parts", RESUME)
    assert second.state.step == stop_at
    assert second.total_steps == total
    second.run()
    return second
