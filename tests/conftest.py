import os
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

# Before torch is imported: every test runs on the CPU, so that its numbers are the same on every machine.
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
if "PYTEST_XDIST_WORKER" in os.environ:  # each worker has one core
    os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState

from sampling.pretrained_folder import save_pretrained
from tests.support import toy
from tests.support.commands import sample_imagenet
from tests.support.parity import PARITY
from tests.support.paths import ROOT
from utils.weights import export_weights


@pytest.fixture(scope="session")
def parity():
    """parity("ar_b") -> the arrays of tests/parity/ar_b.npz."""

    def load(name: str) -> dict[str, np.ndarray]:
        with np.load(PARITY / f"{name}.npz", allow_pickle=False) as arrays:
            return dict(arrays)

    return load


@pytest.fixture
def fresh_accelerate():
    """accelerate keeps the first precision of a process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def images(tmp_path) -> Path:
    """tmp_path/images: 12 images per class in train/ and in val/."""
    return toy.write_images(tmp_path / "images")


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory) -> Path:
    """A folder of toy weights, to read only.

    hub/ as `save_pretrained` writes it; generator/ and tokenizer/ with exported weights; ar.yaml.
    """
    folder = tmp_path_factory.mktemp("pretrained")
    tokenizer = toy.tokenizer(init_std=0.3)  # large enough for images that differ
    save_pretrained(folder / "hub", tokenizer, toy.generator())
    export_weights(folder / "generator", toy.generator().state_dict())
    export_weights(folder / "tokenizer", tokenizer.state_dict())
    toy.write_ar_config(folder / "ar.yaml")
    return folder


@pytest.fixture(scope="session")
def few_images(tmp_path_factory) -> Path:
    """2 images per class in train/ and in val/, to read only."""
    return toy.write_images(tmp_path_factory.mktemp("data") / "images", per_class=2)


@pytest.fixture(scope="session")
def tokenizer_config(tmp_path_factory) -> Path:
    return toy.write_tokenizer_config(tmp_path_factory.mktemp("config") / "2.yaml", 2)


@pytest.fixture
def sampling(pretrained, tmp_path) -> Callable[..., list]:
    """sampling(generator=..., tokenizer=...) -> the command that draws samples into tmp_path/out."""
    good = {name: pretrained / name / "model.safetensors" for name in ("generator", "tokenizer")}

    def command(*overrides, **weights):
        files = good | weights
        arguments = (pretrained / "ar.yaml", files["generator"], files["tokenizer"], tmp_path / "out")
        return sample_imagenet(*arguments, *overrides)

    return command


@pytest.fixture
def program(monkeypatch, capfd) -> Callable[..., tuple[int, str, str]]:
    """program(script, *arguments) -> exit code, stdout, stderr of a script in this process, run in the repository."""
    monkeypatch.chdir(ROOT)

    def call(script: str | Path, *arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        monkeypatch.setattr(sys, "argv", [str(script), *map(str, arguments)])
        monkeypatch.setattr(sys, "path", list(sys.path))
        code, gradients = 0, torch.is_grad_enabled()
        try:
            runpy.run_path(str(ROOT / script), run_name="__main__")
        except SystemExit as end:
            code = end.code or 0
        finally:
            torch.set_grad_enabled(gradients)  # sample.py switches them off
        return code, *capfd.readouterr()

    return call


@pytest.fixture
def refusal(program) -> Callable[..., str]:
    """refusal(script, *arguments) -> the one error line of a script; exit code 2 and no stack trace checked."""

    def call(script: str | Path, *arguments: object) -> str:
        code, _, err = program(script, *arguments)
        lines = err.strip().splitlines()
        assert code == 2, err
        assert "error: " in lines[-1]
        assert not any("Traceback" in line for line in lines)
        return lines[-1]

    return call
