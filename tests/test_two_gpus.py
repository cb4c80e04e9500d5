"""What only two GPUs can show: a device that is not the current one, NCCL, FSDP2.

Trainings of two processes are compared with those of one. Commands: tests/test_gpu.py.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from sampling.noise import image_noise
from sampling.pipeline import Pipeline
from sampling.settings import SamplingSettings
from tests.support import toy
from tests.support.commands import train_ar
from tests.support.decoding import draw_codes
from tests.support.gpu import DEVICE, OTHER_DEVICE, VISIBLE, needs_two_gpus, without_tf32  # noqa: F401
from tests.support.launch import run
from training.checkpoint_files import checkpoint_folder, load_checkpoint_weights
from training.logging import read_log
from utils.weights import read_state_dict

STEPS = 4
SETTINGS = SamplingSettings(4.0, 1.0)

pytestmark = [needs_two_gpus, pytest.mark.slow]


@pytest.mark.parametrize("compile", [False, True])
def test_each_gpu_has_its_own_graphs(compile):
    """In one process: first on the current device, then on another one, then on both in turns."""
    devices = (DEVICE, OTHER_DEVICE)
    models = [[m.to(d).requires_grad_(False) for m in (toy.tokenizer(), toy.generator())] for d in devices]
    options = {"precision": "fp32", "batch_size": 4, "compile": compile}
    pipelines = [Pipeline(*pair, SETTINGS, **options) for pair in models]
    for classes in ([0, 1, 2, 3], [3, 1, 0, 0], [2, 2, 1, 1]):
        noise = image_noise(0, range(4), toy.NUM_CODES)
        expected = draw_codes(toy.generator(), torch.tensor(classes), noise, SETTINGS)
        for pipeline, device in zip(pipelines, devices, strict=True):
            codes = pipeline.generate_codes(classes)
            assert codes.device == torch.device(device if ":" in device or device == "cpu" else f"{device}:0")
            assert (codes.cpu() == expected).all(dim=1).sum() >= 3  # rounding may change one image


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """With one training on one GPU, in float32 and without dropout."""
    path = tmp_path_factory.mktemp("two_gpus")
    toy.write_token_cache(path / "cache", 30)
    train(path, "one", 1)
    return path


def train(folder: Path, name: str, processes: int, *overrides: str) -> None:
    batch = 8 // processes
    config = toy.write_ar_config(folder / f"{name}.yaml", per_gpu_batch_size=batch, max_train_steps=STEPS, use_ema=True)
    options = ("experiment.log_every=1", "optimizer.params.learning_rate=1e-3", "training.enable_tf32=false")
    options += (f"dataset.params.pretokenization_val={folder / 'cache'}", *toy.NO_DROPOUT, *overrides)
    command = train_ar(config, folder / "cache", folder / name, *options)
    run(*command, processes=processes, environment=VISIBLE)


def losses(folder: Path, key: str = "loss") -> list[float]:
    return [row[key] for row in read_log(folder) if key in row]


@pytest.mark.parametrize("fsdp", ["false", "true"])
def test_two_processes_train_as_one(folder, fsdp):
    """By NCCL, with DDP and with FSDP2: the losses, before rounding grows, and the checkpoint's names and shapes."""
    name = f"fsdp_{fsdp}"
    train(folder, name, 2, f"training.fsdp={fsdp}")
    assert losses(folder / name)[:2] == pytest.approx(losses(folder / "one")[:2], rel=1e-5)
    assert losses(folder / name) == pytest.approx(losses(folder / "one"), rel=1e-3)
    assert losses(folder / name, "val_loss") == pytest.approx(losses(folder / "one", "val_loss"), rel=1e-3)
    one, two = (load_checkpoint_weights(checkpoint_folder(folder / n, STEPS), "model") for n in ("one", name))
    assert {key: value.shape for key, value in two.items()} == {key: value.shape for key, value in one.items()}


@pytest.mark.parametrize("fsdp", ["false", "true"])
def test_two_processes_train_by_default(folder, fsdp):
    """bfloat16, compiled if the configuration's default says so: losses close to those of float32."""
    name = f"default_{fsdp}"
    train(folder, name, 2, f"training.fsdp={fsdp}", "training.mixed_precision=bf16")
    assert losses(folder / name)[:2] == pytest.approx(losses(folder / "one")[:2], rel=1e-2)


def test_a_tokenizer_of_two_processes_follows_one(tmp_path):
    """In float64, with clustering and the GAN; both ranks have the same codebook after every step."""
    toy.write_images(tmp_path / "images", noise=True)
    config = toy.write_tokenizer_config(tmp_path / "config.yaml", 1, steps=(2, 4))
    for name, processes, batch in (("one", 1, 8), ("two", 2, 4)):
        arguments = (f"config={config}", f"dataset.params.data_path={tmp_path / 'images'}")
        arguments += (f"experiment.output_dir={tmp_path / 'unused'}", f"training.per_gpu_batch_size={batch}")
        arguments += ("model.vq_model.codebook_size=8", "model.vq_model.init_std=0.2", "training.compile=false")
        script = "tests/support/follow_steps.py"
        run(script, tmp_path / name, *arguments, processes=processes, environment=VISIBLE)
    one, two = (json.loads((tmp_path / name / "losses.json").read_text()) for name in ("one", "two"))
    assert two == pytest.approx(one, rel=1e-8)
    expected = read_state_dict(tmp_path / "one" / "model.safetensors")
    for key, value in read_state_dict(tmp_path / "two" / "model.safetensors").items():
        torch.testing.assert_close(value, expected[key], rtol=0, atol=1e-7)
    codebooks = [json.loads((tmp_path / "two" / f"rank_{rank}.json").read_text()) for rank in (0, 1)]
    assert codebooks[0] == codebooks[1]


def test_two_processes_draw_the_images_of_one(sampling, tmp_path):
    """Two equal GPUs: the same file."""
    results = []
    for processes in (1, 2):
        output = tmp_path / f"out{processes}"
        command = [
            str(word).replace(str(tmp_path / "out"), str(output)) for word in sampling("sampling.precision=fp32")
        ]
        run(*command, processes=processes, environment=VISIBLE)
        with np.load(f"{output}.npz", allow_pickle=False) as arrays:
            results.append(arrays["arr_0"])
    assert results[0].shape == (10, toy.IMAGE_SIZE, toy.IMAGE_SIZE, 3)
    differing = (results[0] != results[1]).reshape(10, -1).any(axis=1).sum()
    assert differing <= 1  # rounding may change one image
