"""The generator against numbers of the published code (tests/parity/README.md)."""

import copy

import pytest
import torch

from modeling.alitok.generator import AliTokGenerator, GeneratorConfig
from modeling.interfaces import CodeLayout
from modeling.layers.rope import rotation_factors
from sampling.cpu import pack_linears
from sampling.guidance import guidance_scale
from sampling.settings import SamplingSettings
from tests.parity.deterministic import fill, integers
from tests.support.decoding import first_codes
from tests.support.parity import assert_close, published_shapes, shapes

CODES = torch.from_numpy(integers("ar-ids", (2, 273), 4096))
CLASSES = torch.tensor([207, 999])
DRAWN = 64  # codes of each image that the sampler itself draws
LAYOUT = CodeLayout(4096, 273, 17, (16, 16))
SIZES = {
    "b": (GeneratorConfig(), 177_048_064),
    "l": (GeneratorConfig(hidden_size=1024), 317_851_648),
    "xl": (GeneratorConfig(hidden_size=1280, num_hidden_layers=32), 662_141_696),
}


@pytest.fixture(scope="module")
def model():
    model = AliTokGenerator(SIZES["b"][0], LAYOUT).eval()
    fill(model)
    return model


@pytest.fixture(scope="module")
def packed_model(model):
    """The same weights in the sampler's fast CPU path."""
    fast = copy.deepcopy(model)
    pack_linears(fast, 4)
    return fast


@pytest.mark.parametrize("size", SIZES)
def test_keys_shapes_and_parameter_counts(size):
    config, count = SIZES[size]
    with torch.device("meta"):
        model = AliTokGenerator(config, LAYOUT)
    assert shapes(model) == published_shapes(f"alitok_{size}.bin")
    assert sum(p.numel() for p in model.parameters()) == count


@torch.no_grad()
def test_first_positions_match_the_published_model(model, parity):
    """The model is causal, so a few codes are enough for the logits of the first positions."""
    expected = parity("ar_b")
    assert_close(model.rope, rotation_factors(torch.from_numpy(expected["rope"])), 1e-5)
    rows = torch.from_numpy(expected["condition"]).flatten()
    assert torch.equal(model.embed_classes(CLASSES), model.embeddings.weight[rows])
    logits = model(CODES[:, :20], CLASSES)
    first = expected["positions"] <= 20
    assert first.sum() >= 3
    picked = logits[:, expected["positions"][first]][:, :, expected["vocab"]]
    assert_close(picked, expected["logits"][:, first])
    assert_close(logits.logsumexp(-1), expected["logsumexp"][:, :21])
    assert (logits.argmax(-1).numpy() == expected["argmax"][:, :21]).all()


@pytest.mark.slow
@torch.no_grad()
def test_forward_matches_the_published_model(model, parity):
    expected = parity("ar_b")
    logits = model(CODES, CLASSES)
    assert logits.shape == (2, 274, 4096)
    picked = logits[:, expected["positions"]][:, :, expected["vocab"]]
    assert_close(picked, expected["logits"])
    assert_close(logits.logsumexp(-1), expected["logsumexp"])
    assert (logits.argmax(-1).numpy() == expected["argmax"]).all()
    no_class = model(CODES, torch.full_like(CLASSES, model.num_classes))
    assert_close(no_class[:, expected["positions"]][:, :, expected["vocab"]], expected["uncond_logits"])
    loss = model.loss(CODES, CLASSES)
    assert_close(loss.value, expected["loss"].reshape(()))
    assert_close(loss.accuracy, expected["accuracy"].reshape(()))


@torch.no_grad()
def guided_gaps(model, codes, classes, scale, power) -> tuple[torch.Tensor, torch.Tensor]:
    """Teacher-forced at every position: the gap between the two best guided logits, and the best code; (B, T)."""
    conditional = model(codes[:, :-1], classes)
    logits = conditional
    if scale:
        unconditional = model(codes[:, :-1], torch.full_like(classes, model.num_classes))
        scales = torch.tensor([guidance_scale(t, codes.shape[1], scale, power) for t in range(codes.shape[1])])
        logits = unconditional + scales[:, None] * (conditional - unconditional)
    best = logits.topk(2, dim=-1)
    return best.values[..., 0] - best.values[..., 1], best.indices[..., 0]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "scale"), [("greedy_cfg", 16.0), ("greedy_nocfg", 0.0)])
def test_greedy_codes_match_the_published_sampler(model, packed_model, parity, name, scale):
    """Each published code is the best one after the published codes before it, except at near ties; and the sampler
    draws the first ones."""
    arrays = parity("ar_b")
    classes = torch.from_numpy(arrays["generate_classes"]).long()
    expected = torch.from_numpy(arrays[name]).long()
    gaps, best = guided_gaps(model, expected, classes, scale, 1.8)
    assert (gaps[best != expected] < 1e-3).all()
    certain = int((gaps < 1e-3).any(0).int().argmax()) or 273  # codes before the first near tie of any image
    drawn = first_codes(packed_model, classes, SamplingSettings(scale, 1.8, temperature=0), DRAWN)
    assert torch.equal(drawn[:, :certain], expected[:, : min(DRAWN, certain)])
