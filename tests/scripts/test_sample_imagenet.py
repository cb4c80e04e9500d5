"""sample_imagenet.py: the same images from any number of processes, after a kill, and on a full disk."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from tests.support import toy
from tests.support.commands import sample_imagenet
from tests.support.launch import kill, run, small_files, start, wait_until

pytestmark = pytest.mark.slow

NUM_SAMPLES = 100  # four shards


def command(pretrained: Path, output: Path, batch_size: int) -> list[object]:
    weights = (pretrained / "generator" / "model.safetensors", pretrained / "tokenizer" / "model.safetensors")
    sizes = (f"sampling.num_samples={NUM_SAMPLES}", f"sampling.batch_size={batch_size}")
    return sample_imagenet(pretrained / "ar.yaml", *weights, output, *sizes)


def pixels(output: Path) -> tuple[np.ndarray, list[int]]:
    with np.load(f"{output}.npz", allow_pickle=False) as arrays:
        return arrays["arr_0"].astype(int), arrays["arr_1"].tolist()


def has_a_shard(folder: Path) -> bool:
    return any(folder.glob("*.npy"))


def test_processes_batches_and_interruptions_change_no_image(pretrained, tmp_path):
    run(*command(pretrained, tmp_path / "one", batch_size=5))
    images, labels = pixels(tmp_path / "one")
    assert labels == [i % toy.NUM_CLASSES for i in range(NUM_SAMPLES)]
    assert len(np.unique(images.reshape(NUM_SAMPLES, -1), axis=0)) > NUM_SAMPLES // 2
    run(*command(pretrained, tmp_path / "three", batch_size=16), processes=3)
    assert np.abs(pixels(tmp_path / "three")[0] - images).max() <= 1

    process = start(*command(pretrained, tmp_path / "killed", batch_size=1))
    shards = tmp_path / "killed" / "shards"
    wait_until(partial(has_a_shard, shards), process)
    kill(process)
    kept = sorted(shards.glob("*.npy"))
    assert 0 < len(kept) < 4, "not killed between shards"
    # Finished shards are kept: a pixel changed in one stays changed.
    first = kept[0]
    marked = np.load(first)
    marked[0, 0, 0] ^= 255
    np.save(first, marked)
    result = run(*command(pretrained, tmp_path / "killed", batch_size=16), processes=2)
    assert "(batch_size is 16, was 1): rounding differs" in result.stderr
    resumed = pixels(tmp_path / "killed")[0]
    changed = np.abs(resumed - images).reshape(NUM_SAMPLES, -1).max(1)
    assert (changed > 1).sum() == 1
    runs = json.loads((tmp_path / "killed" / "sampling.json").read_text())["made with"]
    assert [(one["batch_size"], one["device"]) for one in runs] == [(1, "cpu"), (16, "cpu")]
    assert not shards.exists()


def test_a_failed_write_ends_the_run(pretrained, tmp_path):
    """An error in the thread that writes reaches the main thread."""
    with small_files(20_000):
        result = run(*command(pretrained, tmp_path / "out", batch_size=4), check=False)
    assert result.returncode == 2
    assert "error: " in result.stderr
    assert "Traceback" not in result.stderr
    assert "could not be written" in result.stderr
    assert "free space" in result.stderr
    assert not list(tmp_path.rglob("*.npz"))
    assert not list(tmp_path.rglob("*.npy"))
