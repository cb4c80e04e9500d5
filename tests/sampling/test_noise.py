"""Noise that belongs to an image, and draws that follow the distribution."""

import pytest
import torch

from sampling.noise import draw, image_noise, keep_likely


def test_draws_follow_the_distribution():
    logits = torch.tensor([0.0, 1.0, -1.0, 2.0])
    n = 200_000
    uniform = image_noise(0, [0], n)[0]
    codes = draw(logits.expand(n, -1), uniform)
    frequencies = torch.bincount(codes, minlength=4) / n
    torch.testing.assert_close(frequencies, logits.softmax(0), atol=0.005, rtol=0)


def test_noise_belongs_to_the_image():
    together = image_noise(7, range(6), 5)
    assert torch.equal(image_noise(7, [4, 2], 5), together[[4, 2]])
    assert not torch.equal(image_noise(8, range(6), 5), together)
    assert len(together.unique()) == together.numel()


def test_top_k_and_top_p_keep_the_most_likely():
    logits = torch.tensor([[0.1, 0.4, 0.2, 0.3], [0.05, 0.05, 0.0, 0.9]]).log()

    def kept(top_k: int | None, top_p: float | None) -> list[list[bool]]:
        return keep_likely(logits, top_k, top_p).isfinite().tolist()

    assert kept(None, None) == kept(4, 1.0) == logits.isfinite().tolist()
    assert kept(1, None) == [[False, True, False, False], [False, False, False, True]]
    assert kept(2, None)[0] == [False, True, False, True]
    assert kept(None, 0.65)[0] == [False, True, False, True]  # 0.4 + 0.3 reach 0.65
    assert kept(None, 0.75)[0] == [False, True, True, True]
    assert kept(None, 0.01) == kept(1, None)
    assert kept(3, 0.5)[1] == [False, False, False, True]
    uniform = image_noise(0, [0], 1000)[0]
    drawn = draw(keep_likely(logits[:1], 2, None).expand(1000, -1), uniform)
    assert set(drawn.tolist()) == {1, 3}
    assert (drawn == 1).float().mean() == pytest.approx(4 / 7, abs=0.05)
