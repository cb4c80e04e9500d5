"""Launches and traffic of one layer of a decoding step on a GPU, counted: a change that doubles them fails."""

import pytest
import torch

from benchmarks.generated_kernels import Generated, count_generated
from benchmarks.training_memory import on_pretended_cuda, pretended_cuda
from modeling.build import build_generator, cast_parameters, code_layout
from tests.support.paths import ROOT
from train_generator.config import ARConfig
from utils.config import load_config

ROWS, WIDTH, HEADS = 250, 768, 16  # 125 images with guidance
MODULATIONS = {"alitok_b": 0, "rar_b": 6}


def layer(name: str) -> tuple[Generated, Generated]:
    """What is before the fused kernel and what is after it, in bf16."""
    overrides = ("experiment.output_dir=unused", "model.generator.num_hidden_layers=1")
    config = load_config(ARConfig, "", [f"config={ROOT}/configs/{name}.yaml", *overrides])
    with torch.device("meta"):
        generator = build_generator(config.model.generator, code_layout(config.model.vq_model)).eval()
    with pretended_cuda("no"), torch.no_grad():
        cast_parameters(on_pretended_cuda(generator), torch.bfloat16)
        half = {"device": "cuda", "dtype": torch.bfloat16}
        x = torch.zeros(ROWS, 1, WIDTH, device="cuda")
        attended = torch.zeros(ROWS, 1, HEADS, WIDTH // HEADS, **half).transpose(1, 2)
        parts = MODULATIONS[name]
        modulation = [torch.zeros(ROWS, 1, parts * WIDTH, **half)] if parts else []
        block = generator.blocks[0]
        return (
            count_generated(block.heads, x, *modulation),
            count_generated(block.after_attention, x, attended, *modulation),
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "products", "megabytes"), [("alitok_b", (1, 4), (2.7, 12.0)), ("rar_b", (1, 3), (5.0, 14.7))]
)
def test_a_layer_is_ten_launches(name, products, megabytes):
    """Beside its matrix products a layer has four generated kernels and the fused one. Bytes: without weights and
    without keys and values."""
    for counted, number, kernels, most in zip(layer(name), products, (1, 3), megabytes, strict=True):
        assert counted.products == number
        assert counted.kernels <= kernels
        assert counted.bytes <= most * 1e6
