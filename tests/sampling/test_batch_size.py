"""How many images are drawn at a time on a GPU, from arithmetic on its memory."""

import pytest
import torch

from modeling.build import build_generator, code_layout
from sampling.batch_size import choose_batch_size, even_batch, room_for
from sampling.decoding import decoder_settings
from tests.support.paths import ROOT
from train_generator.config import ARConfig
from utils.config import load_config

GIB = 2**30


def published(name: str):
    """Generator without data, and its settings."""
    config = load_config(ARConfig, "", [f"config={ROOT}/configs/{name}.yaml", "experiment.output_dir=unused"])
    with torch.device("meta"):
        generator = build_generator(config.model.generator, code_layout(config.model.vq_model))
    return generator, decoder_settings(config.model.generator, generator.decoding)


@pytest.mark.parametrize(
    ("name", "gib", "size"),
    [
        ("alitok_b", 80, 500),
        ("alitok_b", 24, 250),
        ("alitok_l", 80, 500),
        ("alitok_xl", 80, 500),
        ("alitok_xl", 40, 250),
    ],
)
def test_published_generators_on_usual_gpus(name, gib, size):
    """In bf16, with guidance: keys and values of B take 40 MB an image, and those of XL 89 MB."""
    generator, settings = published(name)
    assert even_batch(room_for(generator, settings, "bf16", gib * GIB), 500) == size


def test_guidance_and_precision_double_the_memory():
    generator, settings = published("alitok_b")
    plain = type(settings)(guidance_scale=0.0)
    rooms = [room_for(generator, s, p, 80 * GIB) for s, p in ((plain, "bf16"), (settings, "bf16"), (settings, "fp32"))]
    assert rooms[0] == pytest.approx(2 * rooms[1], rel=0.02)
    assert rooms[1] == pytest.approx(2 * rooms[2], rel=0.05)


def test_batches_of_one_size_make_a_shard():
    assert [even_batch(room, 500) for room in (1, 125, 130, 249, 250, 499, 500, 9999)] == [
        1, 125, 125, 167, 250, 250, 500, 500,
    ]  # fmt: skip
    assert even_batch(9999, 33) == 33


def test_a_gpu_too_small_draws_single_images():
    assert room_for(*published("alitok_xl"), "bf16", GIB) == 1


def test_a_cpu_has_small_batches():
    generator, settings = published("alitok_b")
    assert choose_batch_size(generator, settings, "fp32", torch.device("cpu")) == 32
    assert choose_batch_size(generator, settings, "fp32", torch.device("cpu"), largest=5) == 5
