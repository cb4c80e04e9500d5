"""The decoding step that is recorded: its position is known to the device only, and it draws what others draw."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from modeling.layers.decode_attention import plain_attention
from modeling.rar import cache as rar_cache
from sampling.autoregressive import AutoregressiveDecoder, _SteppedBatch
from sampling.noise import image_noise
from sampling.settings import SamplingSettings
from tests.support import toy
from tests.support.decoding import draw_codes
from tests.support.toy.rar import rar_generator

SETTINGS = SamplingSettings(4.0, 1.0)
CLASSES = torch.tensor([0, 2, 1])
NOISE = image_noise(0, range(3), toy.NUM_CODES)


@torch.no_grad()
def stepped(
    batch: _SteppedBatch, classes: Tensor = CLASSES, noise: Tensor = NOISE, first: Tensor | None = None
) -> Tensor:
    *_, codes = batch.run(classes, noise, batch.step, first)
    return batch.generator.in_tokenizer_order(codes.clone())


def new_batch(generator, settings: SamplingSettings = SETTINGS) -> _SteppedBatch:
    return _SteppedBatch(AutoregressiveDecoder(generator, settings), 4, torch.device("cpu"), plain_attention)


@pytest.mark.parametrize("build", [toy.generator, lambda: toy.generator(code_order="reversed"), rar_generator])
@pytest.mark.parametrize(
    "changes",
    [{}, {"guidance_scale": 0.0}, {"temperature": 0.0}, {"top_k": 5, "top_p": 0.9}, {"soft_guidance": True}],
)
def test_it_draws_what_the_host_draws(build: Callable, changes: dict):
    settings = SamplingSettings(**{"guidance_scale": 4.0, "guidance_scale_pow": 1.0} | changes)
    expected = draw_codes(build(), CLASSES, NOISE, settings)
    assert torch.equal(stepped(new_batch(build(), settings)), expected)


@pytest.mark.parametrize("build", [toy.generator, rar_generator])
def test_the_same_buffers_draw_another_batch(build: Callable):
    batch, other = new_batch(build()), torch.tensor([3, 1])
    unfinished = batch.run(CLASSES, NOISE, batch.step)
    with torch.no_grad():
        next(unfinished), next(unfinished)
    unfinished.close()
    assert torch.equal(stepped(batch, other, NOISE[1:]), draw_codes(build(), other, NOISE[1:], SETTINGS))
    assert torch.equal(stepped(batch), draw_codes(build(), CLASSES, NOISE, SETTINGS))


@pytest.mark.parametrize("build", [toy.generator, rar_generator])
@pytest.mark.parametrize("settings", [SETTINGS, SamplingSettings(4.0, 1.0, soft_guidance=True)])
@pytest.mark.parametrize("run_bytes", [3 * 2 * 8 * 6 * 32 * 4, 2**30])
def test_it_continues_kept_codes(monkeypatch, build: Callable, settings: SamplingSettings, run_bytes: int):
    """Those of the drawn images, so that they come back; with runs of three modulations, and with one run."""
    monkeypatch.setattr(rar_cache, "MODULATION_BYTES", run_bytes)
    expected, batch = draw_codes(build(), CLASSES, NOISE, settings), new_batch(build(), settings)
    for count in range(toy.NUM_CODES):
        assert torch.equal(stepped(batch, first=expected[:, :count]), expected)


def test_modulations_come_in_runs(monkeypatch):
    expected = draw_codes(rar_generator(), CLASSES, NOISE, SETTINGS)
    monkeypatch.setattr(rar_cache, "MODULATION_BYTES", 3 * 2 * 8 * 6 * 32 * 4)  # three positions of eight rows
    batch = new_batch(rar_generator())
    assert batch.cache.modulations.shape[2] == 3
    assert torch.equal(stepped(batch), expected)


@pytest.mark.parametrize("build", [toy.generator, rar_generator])
@pytest.mark.parametrize("precision", ["fp8_values", "fp8"])
def test_a_cache_of_8_bits_holds_what_the_ordinary_one_holds(build: Callable, precision: str):
    """Both paths round alike, and the codes are those of rounded keys and values."""
    settings = SamplingSettings(4.0, 1.0, cache_precision=precision)
    batch = new_batch(build(), settings)
    assert batch.cache.keys.itemsize == (1 if precision == "fp8" else 4)
    assert batch.cache.values.itemsize == 1
    assert torch.equal(stepped(batch), draw_codes(build(), CLASSES, NOISE, settings))
