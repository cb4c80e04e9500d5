"""Where the tests of a GPU run: on it, or for a rehearsal of their code on the CPU."""

import os
from collections.abc import Iterator

import pytest
import torch

from modeling.layers.precision import full_float32
from tests.support.paths import ROOT
from train_generator.config import ARConfig
from utils.config import load_config

REHEARSAL = os.environ.get("REHEARSE_GPU_TESTS") == "1"
DEVICE = "cpu" if REHEARSAL else "cuda"
OTHER_DEVICE = "cpu" if REHEARSAL else "cuda:1"
# For the environment of scripts: `tests.support.launch` hides all GPUs.
VISIBLE = {"CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "")}

needs_gpu = pytest.mark.skipif(
    not REHEARSAL and not torch.cuda.is_available(), reason="no GPU, or CUDA_VISIBLE_DEVICES hides it"
)
needs_two_gpus = pytest.mark.skipif(
    not REHEARSAL and torch.cuda.device_count() < 2, reason="fewer than two GPUs, or CUDA_VISIBLE_DEVICES hides them"
)
not_rehearsed = pytest.mark.skipif(REHEARSAL, reason="only a GPU has what this test looks at")

# The B models' widths and lengths with two layers. Few codes, so that likely ones differ by more than rounding.
LARGE = {
    "alitok_b": ("model.vq_model.encoder.num_layers=1", "model.vq_model.decoder.num_layers=1"),
    "rar_b": ("model.vq_model.channels=32",),
}
LARGE_SIZES = ("model.vq_model.codebook_size=64", "model.generator.num_hidden_layers=2")
LARGE_SIZES += ("model.generator.condition_num_classes=4",)


@pytest.fixture(autouse=True)
def without_tf32() -> Iterator[None]:
    """float32 products in float32, whatever an earlier test or a training in this process has allowed."""
    with full_float32():
        yield


def large_config(name: str, *overrides: str) -> ARConfig:
    """configs/NAME.yaml with few layers."""
    arguments = [f"config={ROOT}/configs/{name}.yaml", "experiment.output_dir=unused"]
    return load_config(ARConfig, "", [*arguments, *LARGE[name], *LARGE_SIZES, *overrides])
