"""Generators on other layouts than the published ones: 512 pixels and AliTok's third version in small."""

import pytest
import torch

from modeling.build import build_generator
from modeling.interfaces import GENERATORS, CodeLayout, Generator
from tests.support.decoding import cached_logits

LAYOUTS = {
    "version 3": CodeLayout(32, 20, 4, (4, 4)),
    "released": CodeLayout(32, 21, 5, (4, 4)),
    "512 pixels, patch 16": CodeLayout(32, 72, 8, (8, 8)),
    "no prefix": CodeLayout(32, 16, 0, (4, 4)),
    "a line": CodeLayout(32, 12),
}


def generator(name: str, layout: CodeLayout) -> Generator:
    torch.manual_seed(0)
    settings = GENERATORS.settings_class(name)(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, condition_num_classes=4
    )
    model = build_generator(settings, layout).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)  # initial zeros would hide mistakes
    return model


@torch.no_grad()
@pytest.mark.parametrize("name", ["alitok", "rar"])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_codes_drawn_one_by_one_are_those_of_the_full_forward(name, layout):
    model, classes = generator(name, layout), torch.tensor([0, 4])
    codes = torch.randint(0, layout.codebook_size, (2, layout.num_codes))
    full = model(codes[:, :-1], classes)
    assert full.shape == (2, layout.num_codes, layout.codebook_size)
    for t, logits in enumerate(cached_logits(model, codes, classes)):
        torch.testing.assert_close(logits, full[:, t], atol=1e-4, rtol=1e-4)
    assert (full[:, :-1] - full[:, 1:]).abs().amax(-1).min() > 1e-3  # every position has its own


@pytest.mark.parametrize("name", ["alitok", "rar", "maskgit"])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_the_loss_has_a_hit_for_every_position(name, layout):
    model = generator(name, layout)
    codes = torch.randint(0, layout.codebook_size, (3, layout.num_codes))
    loss = model.loss(codes, torch.tensor([0, 1, 4]), None, torch.rand(3, model.loss_noise, dtype=torch.float64))
    assert loss.value.isfinite()
    assert loss.hits.shape == codes.shape
