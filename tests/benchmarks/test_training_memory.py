"""Memory counted without a GPU against what a whole training step holds on the CPU."""

import pytest
import torch

from benchmarks.training_memory import AliveTensors, count_forward, count_memory
from modeling.alitok.generator import AliTokGenerator, GeneratorConfig
from modeling.interfaces import CodeLayout
from tests.support.paths import ROOT
from tests.support.trainings import train_step
from train_generator.config import ARConfig
from train_generator.trainer import parameter_groups
from utils.config import load_config


class PeakTensors(AliveTensors):
    """Also remembers the most bytes alive after any operation."""

    peak = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = super().__torch_dispatch__(function, types, args, kwargs)
        self.peak = max(self.peak, self.alive())
        return result


def test_tensors_are_counted_while_they_live():
    given = torch.zeros(1000)
    with PeakTensors() as tensors:
        a = torch.zeros(1000)
        b, d = a[10:], given[10:].add_(1)  # views of other storage
        c = a + 1
        assert tensors.alive() == 8000
        del a
        assert tensors.alive() == 8000
        del b, c, d
        assert tensors.alive() == 0
    assert tensors.peak == 8000


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_the_count_bounds_a_real_step_closely(precision, recompute, monkeypatch):
    # The fused kernel in float32 too, as on a GPU.
    monkeypatch.setattr("modeling.layers.attention.MAX_MATERIALISED_LENGTH", 0)
    torch.manual_seed(0)
    model = AliTokGenerator(
        GeneratorConfig(
            hidden_size=128,
            num_hidden_layers=4,
            num_attention_heads=4,
            attn_drop=0.0,
            condition_num_classes=10,
            use_checkpoint=recompute,
        ),
        CodeLayout(256, 73, 9, (8, 8)),
    ).train()
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.03), fused=True)
    codes, class_ids = torch.randint(0, 256, (32, 73)), torch.arange(32) % 10
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16)
    train_step(model, optimizer, codes, class_ids, autocast)  # allocates AdamW's moments
    with PeakTensors() as tensors:
        train_step(model, optimizer, codes, class_ids, autocast)
    weights = sum(p.numel() for p in model.parameters())
    real = tensors.peak + weights * 12  # gradients are allocated inside the step
    with autocast:
        counted = count_forward(model, codes, class_ids, average=False).total
    assert real <= counted <= 1.25 * real


@pytest.mark.parametrize(
    ("size", "batch_size"),
    [("b", 128), pytest.param("l", 64, marks=pytest.mark.slow), pytest.param("xl", 32, marks=pytest.mark.slow)],
)
def test_published_batches_fit_into_80_gb(size, batch_size):
    config = load_config(ARConfig, "", [f"config={ROOT}/configs/alitok_{size}.yaml"])
    assert config.training.per_gpu_batch_size == batch_size
    assert count_memory(config, batch_size).total < 70e9
