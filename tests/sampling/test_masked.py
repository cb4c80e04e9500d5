"""Masked decoding: distributions, counts, ties, guidance; an image depends on no batch."""

from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from modeling.interfaces import CodeLayout
from sampling.cpu import pack_linears
from sampling.decoding import decoder_settings
from sampling.masked import MaskedDecoder, MaskedSettings, masked_counts
from sampling.noise import draw, gumbel, image_noise
from tests.support import toy
from tests.support.toy.maskgit import NETWORKS, masked_generator
from utils.errors import UserError

SETTINGS = MaskedSettings(4, 3.0, "linear", temperature=2.0, softmax_temperature_annealing=True)


class FixedLogits:
    """In place of a generator: logits that depend on place, class and code; remembers its calls."""

    num_classes = 4

    def __init__(self, num_codes: int, codebook_size: int, equal: bool = False):
        self.layout = CodeLayout(codebook_size, num_codes)
        self.calls: list[SimpleNamespace] = []
        self.table = torch.randn(5, num_codes, codebook_size, generator=torch.Generator().manual_seed(1))
        if equal:
            self.table[:] = self.table[:1, :1].clone()

    def __call__(self, codes: Tensor, class_ids: Tensor, places: Tensor) -> Tensor:
        self.calls.append(SimpleNamespace(codes=codes, class_ids=class_ids, places=places))
        return self.table[class_ids[:, None], places]


def noise_of(decoder: MaskedDecoder, ids: list[int] | range, seed: int = 3) -> Tensor:
    return image_noise(seed, ids, decoder.noise_shape)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("scale", [0.0, 3.0])
def test_samples_do_not_depend_on_the_batch(network, scale):
    settings = replace(SETTINGS, guidance_scale=scale)
    decoder, ids = MaskedDecoder(masked_generator(network), settings), range(10)
    classes, noise = torch.tensor([i % toy.NUM_CLASSES for i in ids]), noise_of(decoder, ids)
    together = decoder(classes, noise)
    assert together.shape == (10, toy.NUM_CODES)
    assert 0 <= int(together.min()) <= int(together.max()) < toy.CODEBOOK_SIZE
    assert len(together.unique(dim=0)) > 5
    parts = [decoder(classes[i : i + 3], noise[i : i + 3]) for i in (0, 3, 6, 9)]
    assert torch.equal(together, torch.cat(parts))
    full = MaskedDecoder(decoder.generator, settings, fixed_rows=4)
    assert torch.equal(together[:3], full(classes[:3], noise[:3]))
    assert not torch.equal(together, decoder(classes, noise_of(decoder, ids, seed=4)))


def test_the_number_of_steps_changes_no_noise_of_a_step():
    generator = FixedLogits(5, 8)
    few, many = (noise_of(MaskedDecoder(generator, MaskedSettings(n)), [7]) for n in (3, 6))
    assert torch.equal(few, many[:, :3])


def test_a_stream_shows_every_step():
    decoder = MaskedDecoder(masked_generator(), SETTINGS)
    classes, noise = torch.tensor([0, 3]), noise_of(decoder, range(2))
    stages = list(decoder.stream(classes, noise))
    assert [(codes < 0).sum(1).tolist() for codes in stages] == [[n, n] for n in masked_counts(toy.NUM_CODES, 4)]
    for early, late in pairwise(stages):
        assert torch.equal(early[early >= 0], late[early >= 0])  # known codes stay
    assert torch.equal(stages[-1], decoder(classes, noise))


def test_at_least_one_code_is_drawn_in_a_step():
    assert masked_counts(4, 8) == [3, 2, 1, 1, 1, 1, 1, 0]
    assert masked_counts(1, 2) == [1, 0]
    assert masked_counts(100, 1) == [0]
    decoder = MaskedDecoder(FixedLogits(4, 8), MaskedSettings(8, temperature=1.0))
    assert (decoder(torch.tensor([0]), noise_of(decoder, [0])) >= 0).all()


def test_of_equally_confident_codes_the_first_are_masked():
    """Without noise all places are alike, in every image of the batch."""
    decoder = MaskedDecoder(FixedLogits(8, 5, equal=True), MaskedSettings(4, temperature=0))
    counts = masked_counts(8, 4)
    for codes, count in zip(decoder.stream(torch.tensor([0, 1]), noise_of(decoder, range(2))), counts, strict=True):
        assert torch.equal(codes < 0, (torch.arange(8) < count).expand(2, -1))


def test_draws_are_those_of_gumbel_noise():
    """One uniform number a place gives the distribution of the published argmax over noise for each code."""
    logits, temperature, n = torch.tensor([0.0, 1.0, -1.0, 2.0]), 2.5, 100_000
    published = (logits + temperature * gumbel(image_noise(0, [0], (n, 4))[0])).argmax(-1)
    ours = draw((logits / temperature).expand(n, -1), image_noise(1, [0], n)[0])
    frequencies = [torch.bincount(codes, minlength=4) / n for codes in (published, ours)]
    torch.testing.assert_close(*frequencies, atol=0.008, rtol=0)
    extremes = gumbel(torch.tensor([0.0, 1 - 2.0**-53], dtype=torch.float64))
    assert extremes.tolist() == pytest.approx([-3.8298, 36.7368], abs=1e-3)


def test_guidance_has_the_published_formulas():
    conditional, unconditional = 2.0, 0.5
    for decay, at_step_3 in (
        ("constant", conditional + 3 * (conditional - unconditional)),
        ("linear", conditional + 3 * 3 / 4 * (conditional - unconditional)),
        # g = 1 + 2 (1 - cos(pi (3/4)^2)) / 2 = 1 + 1 - cos(0.5625 pi)
        ("power-cosine", unconditional + 2.1950903 * (conditional - unconditional)),
    ):
        settings = MaskedSettings(4, 3.0, decay, 2.0)
        found = conditional + settings.guidance_weight(3) * (conditional - unconditional)
        assert found == pytest.approx(at_step_3)
        assert settings.guidance_weight(0) == (3.0 if decay == "constant" else 0.0)
        assert replace(settings, guidance_scale=0.0).guidance_weight(3) == 0


def test_only_what_is_needed_is_computed():
    """One pass a step, over masked places; rows without a class only where guidance has weight."""
    for decay, first in (("linear", 2), ("power-cosine", 2), ("constant", 4)):
        generator = FixedLogits(6, 5)
        decoder = MaskedDecoder(generator, MaskedSettings(3, 2.0, decay))
        decoder(torch.tensor([0, 1]), noise_of(decoder, range(2)))
        assert [len(call.class_ids) for call in generator.calls] == [first, 4, 4]
        assert [call.places.shape[1] for call in generator.calls] == [6, *masked_counts(6, 3)[:-1]]
        assert generator.calls[1].class_ids.tolist() == [0, 1, 4, 4]
        for call in generator.calls:
            assert (call.codes.gather(1, call.places) == -1).all()
            assert ((call.codes < 0).sum(1) == call.places.shape[1]).all()


def test_temperatures_are_annealed():
    """The last step is greedy, whatever the temperature; softmax annealing divides logits by 1.3 to 0.5."""
    generator = FixedLogits(1, 5)
    decoder = MaskedDecoder(generator, MaskedSettings(1, temperature=100.0))
    assert int(decoder(torch.tensor([2]), noise_of(decoder, [0]))) == int(generator.table[2, 0].argmax())
    annealed = replace(SETTINGS, guidance_scale=0.0)
    codes, classes, places = torch.full((1, 1), -1), torch.tensor([2]), torch.zeros(1, 1, dtype=torch.int64)
    for step, divisor in ((0, 1.1), (3, 0.5)):
        found = MaskedDecoder(generator, annealed)._logits(step, codes, classes, places)
        torch.testing.assert_close(found, generator.table[2:3, :1] / divisor)


@torch.no_grad()
@pytest.mark.parametrize("network", NETWORKS)
def test_packed_weights_compute_the_same(network):
    plain, fast = masked_generator(network), masked_generator(network)
    pack_linears(fast.requires_grad_(False), 8)
    classes = torch.tensor([0, 3])
    codes = [
        MaskedDecoder(m, SETTINGS)(classes, image_noise(0, range(2), (4, toy.NUM_CODES, 2))) for m in (plain, fast)
    ]
    assert torch.equal(*codes)


def test_bad_settings_and_batches():
    config = masked_generator().config
    assert decoder_settings(config, "masked", temperature=0.5) == MaskedSettings(8, 3.0, "linear", 3.0, 0.5, True)
    for changes, message in (
        ({"num_steps": 0}, "num_steps is 0"),
        ({"guidance_decay": "power_cosine"}, "guidance_decay 'power_cosine' is none of constant, linear, power-cosine"),
        ({"temperature": -1.0}, "temperature is -1"),
        ({"guidance_scale_pow": -1.0}, "guidance_scale_pow is -1"),
        ({"top_k": 5}, r"masked decoding has no setting 'top_k' \(it has num_steps, guidance_scale"),
    ):
        with pytest.raises(UserError, match=message):
            decoder_settings(config, "masked", **changes)
    decoder = MaskedDecoder(masked_generator(), SETTINGS, fixed_rows=1)
    with pytest.raises(ValueError, match="class ids must be in"):
        decoder(torch.tensor([4]), noise_of(decoder, [0]))
    with pytest.raises(ValueError, match="2 images in a batch, but there is room for 1"):
        decoder(torch.tensor([0, 1]), noise_of(decoder, range(2)))


@pytest.mark.parametrize("name", ["guidance_scale", "guidance_scale_pow", "temperature"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_settings_are_finite(name, value):
    with pytest.raises(ValueError, match=f"{name} is {value}, but must be a finite number"):
        MaskedSettings(**{name: value})
