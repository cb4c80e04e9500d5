"""What all ways of decoding share."""

from itertools import pairwise

import pytest
import torch

from sampling.autoregressive import AutoregressiveDecoder
from sampling.decoding import DECODERS, decoder_settings, fill_undrawn
from sampling.noise import image_noise
from sampling.settings import SamplingSettings
from tests.support import toy
from utils.errors import UserError


def test_codes_to_come_repeat_their_neighbours():
    codes = torch.tensor([[3, -1, -1, 5, -1], [-1, -1, 4, -1, 1], [1, 2, 3, 4, 5], [-1, -1, -1, -1, 9]])
    expected = [[3, 3, 3, 5, 5], [4, 4, 4, 4, 1], [1, 2, 3, 4, 5], [9, 9, 9, 9, 9]]
    assert fill_undrawn(codes).tolist() == expected


@pytest.mark.parametrize("order", ["raster", "reversed"])
def test_a_stream_has_one_more_code_each_time(order):
    decoder = AutoregressiveDecoder(toy.generator(code_order=order), SamplingSettings(4.0))
    classes, noise = torch.tensor([0, 3]), image_noise(0, range(2), decoder.noise_shape)
    stages = list(decoder.stream(classes, noise))
    assert [(codes >= 0).sum(1).tolist() for codes in stages] == [[n, n] for n in range(1, toy.NUM_CODES + 1)]
    first = 0 if order == "raster" else toy.NUM_CODES - 1
    assert (stages[0][:, first] >= 0).all()
    for early, late in pairwise(stages):
        assert torch.equal(early[early >= 0], late[early >= 0])
    assert torch.equal(stages[-1], decoder(classes, noise))


def test_settings_come_from_the_generators_configuration():
    settings = decoder_settings(toy.generator().config, "autoregressive", top_k=5)
    assert settings == SamplingSettings(16.0, 1.8, temperature=1.0, top_k=5)
    with pytest.raises(UserError, match="sampling settings: top_p is 2"):
        decoder_settings(toy.generator().config, "autoregressive", top_p=2)
    with pytest.raises(UserError, match="unknown decoding 'autoregresive'; did you mean 'autoregressive'"):
        DECODERS.part_class("autoregresive")
