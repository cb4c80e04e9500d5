"""Quantization that grows while a training begins."""

import pytest
import torch

from modeling.layers.quantizer_start import DECAY, FULL_AT, QuantizerStart, explained_variance, variance_sums


def pictures(seed: int = 0, count: int = 4) -> torch.Tensor:
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def explained(images: torch.Tensor, reconstruction: torch.Tensor) -> float:
    return float(explained_variance(variance_sums(images, reconstruction)))


def test_explained_variance():
    images = pictures()
    colour = images.mean((0, 2, 3), keepdim=True).expand_as(images)
    assert explained(images, colour) == pytest.approx(0, abs=1e-6)
    assert explained(images, images) == 1
    assert explained(images, images.lerp(colour, 0.5)) == pytest.approx(0.75, abs=1e-6)
    assert explained(images, torch.zeros_like(images)) < -1
    flat = torch.full_like(images, 0.25)
    assert explained(flat, images) == 0


def test_sums_add_up_to_those_of_the_whole_batch():
    images, drawn = pictures(), pictures(1)
    parts = variance_sums(images[:1], drawn[:1]) + variance_sums(images[1:], drawn[1:])
    torch.testing.assert_close(parts, variance_sums(images, drawn))


def strengths(start: QuantizerStart, reconstructions: list[torch.Tensor]) -> list[float]:
    result = []
    for drawn in reconstructions:
        start.collect(pictures(), drawn)
        start.update()
        result.append(float(start.strength))
    return result


def test_strength_follows_what_is_drawn_and_never_falls():
    drawn, nothing = pictures().lerp(pictures().mean((0, 2, 3), keepdim=True), 0.5), torch.zeros(4, 3, 8, 8)
    rising = strengths(start := QuantizerStart(1000), [drawn] * 5)
    expected = [0.75 * (1 - DECAY**n) / FULL_AT for n in range(1, 6)]
    assert rising == pytest.approx(expected, abs=1e-5)
    later = strengths(start, [nothing] * 3)
    assert later == pytest.approx([rising[-1] + n / 1000 for n in range(1, 4)], abs=1e-5)
    assert strengths(start, [pictures()] * 20)[-1] == 1


def test_strength_is_full_after_its_steps():
    nothing = torch.zeros(4, 3, 8, 8)
    assert strengths(QuantizerStart(4), [nothing] * 6) == [0.25, 0.5, 0.75, 1, 1, 1]


def test_a_skipped_step_changes_nothing():
    start = QuantizerStart(4)
    start.collect(pictures(), pictures())
    start.discard_collected()
    start.update()
    assert start.strength == 0
