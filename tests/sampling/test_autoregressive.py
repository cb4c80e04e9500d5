"""Drawing codes one after another: the batch changes nothing, every setting reaches the draws."""

import pytest
import torch

from sampling.autoregressive import AutoregressiveDecoder
from sampling.noise import image_noise
from sampling.settings import SamplingSettings
from tests.support import toy
from tests.support.decoding import draw_codes

SETTINGS = SamplingSettings(4.0, 1.0)


def test_padded_batches_draw_the_same():
    generator, classes, noise = toy.generator(), torch.tensor([0, 1, 2]), image_noise(0, range(3), toy.NUM_CODES)
    sampler = AutoregressiveDecoder(generator, SETTINGS, fixed_rows=5)
    assert torch.equal(sampler(classes, noise), draw_codes(generator, classes, noise, SETTINGS))
    with pytest.raises(ValueError, match="room for 5"):
        sampler(torch.zeros(6, dtype=torch.long), image_noise(0, range(6), toy.NUM_CODES))


def test_no_guidance_work_without_guidance(monkeypatch):
    """Guided decoding runs two rows per image, unguided decoding one."""
    generator, rows = toy.generator(), []
    new_cache = generator.new_cache

    def counting_cache(class_ids: torch.Tensor, precision: str | None):
        rows.append(len(class_ids))
        return new_cache(class_ids, precision)

    monkeypatch.setattr(generator, "new_cache", counting_cache)
    for scale in (1.0, 4.0):
        draw_codes(generator, torch.tensor([0, 1]), image_noise(0, [0, 1], 7), SamplingSettings(scale))
    assert rows == [2, 4]


def test_top_k_top_p_and_temperature_reach_the_draws():
    generator, classes, noise = toy.generator(), torch.arange(4), image_noise(0, range(4), toy.NUM_CODES)
    greedy = draw_codes(generator, classes, noise, SamplingSettings(4.0, temperature=0))
    assert not torch.equal(greedy, draw_codes(generator, classes, noise, SETTINGS))
    for same in ({"top_k": 1}, {"top_p": 1e-9}, {"temperature": 1e-6}):
        assert torch.equal(greedy, draw_codes(generator, classes, noise, SamplingSettings(4.0, **same)))


@pytest.mark.parametrize("scale", [0.0, 4.0])
def test_samples_do_not_depend_on_the_batch(scale):
    model = toy.generator()
    ids = range(10)
    classes = torch.tensor([i % toy.NUM_CLASSES for i in ids])
    noise = image_noise(3, ids, toy.NUM_CODES)
    together = draw_codes(model, classes, noise, SamplingSettings(scale))
    apart = [draw_codes(model, classes[i : i + 3], noise[i : i + 3], SamplingSettings(scale)) for i in (0, 3, 6, 9)]
    assert torch.equal(together, torch.cat(apart))


def test_zero_scale_equals_scale_one():
    """No guidance and a scale of 1 are the same distribution."""
    model = toy.generator()
    classes, noise = torch.tensor([0, 1, 2]), image_noise(0, range(3), toy.NUM_CODES)
    unguided = draw_codes(model, classes, noise, SamplingSettings(0.0))
    assert torch.equal(unguided, draw_codes(model, classes, noise, SamplingSettings(1.0)))
