"""sample_imagenet.py: the same images from any number of processes, after a kill, and on a full disk."""

import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from tests.support import toy
from tests.support.launch import kill, run, start
from tests.support.paths import ROOT

NUM_SAMPLES = 100  # four shards


def command(pretrained: Path, output: Path, *overrides: object) -> list[object]:
    return [
        "sample_imagenet.py",
        f"config={pretrained / 'ar.yaml'}",
        f"experiment.output_dir={output}",
        f"experiment.generator_checkpoint={pretrained / 'generator' / 'model.safetensors'}",
        f"experiment.tokenizer_checkpoint={pretrained / 'tokenizer' / 'model.safetensors'}",
        f"sampling.num_samples={NUM_SAMPLES}",
        *overrides,
    ]


def pixels(output: Path) -> tuple[np.ndarray, list[int]]:
    with np.load(f"{output}.npz", allow_pickle=False) as arrays:
        return arrays["arr_0"].astype(int), arrays["arr_1"].tolist()


def test_processes_batches_and_interruptions_change_no_image(pretrained, tmp_path):
    run(*command(pretrained, tmp_path / "one", "sampling.batch_size=5"))
    images, labels = pixels(tmp_path / "one")
    assert labels == [i % toy.NUM_CLASSES for i in range(NUM_SAMPLES)]
    assert len(np.unique(images.reshape(NUM_SAMPLES, -1), axis=0)) > NUM_SAMPLES // 2
    run(*command(pretrained, tmp_path / "three", "sampling.batch_size=16"), processes=3)
    assert np.abs(pixels(tmp_path / "three")[0] - images).max() <= 1

    process = start(*command(pretrained, tmp_path / "killed", "sampling.batch_size=1"))
    shards = tmp_path / "killed" / "shards"
    deadline = time.monotonic() + 120
    while not list(shards.glob("*.npy")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    kill(process)
    kept = {p: p.stat().st_mtime_ns for p in shards.glob("*.npy")}
    assert 0 < len(kept) < 4, "not killed between shards"
    # What was finished is taken over: a pixel changed in it stays changed.
    first = sorted(kept)[0]
    marked = np.load(first)
    marked[0, 0, 0] ^= 255
    np.save(first, marked)
    run(*command(pretrained, tmp_path / "killed", "sampling.batch_size=16"), processes=2)
    resumed = pixels(tmp_path / "killed")[0]
    changed = np.abs(resumed - images).reshape(NUM_SAMPLES, -1).max(1)
    assert (changed > 1).sum() == 1 and not shards.exists()


def test_a_failed_write_ends_the_run(pretrained, tmp_path):
    """In the thread that writes; the limit on file sizes stands for a full disk."""
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # noqa: E731
    result = subprocess.run(
        [sys.executable, *map(str, command(pretrained, tmp_path / "out"))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        preexec_fn=limit,
        timeout=200,
    )
    assert result.returncode == 2 and "error: " in result.stderr and "Traceback" not in result.stderr
    assert "could not be written" in result.stderr and "free space" in result.stderr
    assert not list(tmp_path.rglob("*.npz")) and not list(tmp_path.rglob("*.npy"))
