"""RAR against numbers of the published code (tests/parity/README.md)."""

import json

import numpy as np
import pytest
import torch

from modeling.interfaces import CodeLayout, Progress
from modeling.rar.generator import RARGenerator
from modeling.rar.settings import RARConfig
from sampling.guidance import guidance_scale
from sampling.settings import SamplingSettings
from tests.parity.deterministic import fill, integers, normal
from tests.support.decoding import draw_codes, first_codes
from tests.support.parity import PARITY, assert_close, published_shapes, shapes
from train_generator.trainer import parameter_groups
from training.lr_schedule import warmup_cosine
from training.optimizer import AdamWParams, make_adamw

LAYOUT, TINY_LAYOUT = CodeLayout(1024, 256, 0, (16, 16)), CodeLayout(32, 16, 0, (4, 4))
SIZES = {
    "b": (RARConfig(), 260_923_648),
    "l": (RARConfig(hidden_size=1024, intermediate_size=4096), 461_668_352),
    "xl": (RARConfig(hidden_size=1280, num_hidden_layers=32, intermediate_size=5120), 955_425_024),
    "xxl": (RARConfig(hidden_size=1408, num_hidden_layers=40, intermediate_size=6144), 1_498_520_704),
}
DRAWN = 32  # codes of each image that the sampler itself draws
TINY = RARConfig(
    hidden_size=64,
    num_hidden_layers=4,
    num_attention_heads=4,
    intermediate_size=256,
    condition_num_classes=10,
    dropout=0.0,
    attn_drop=0.0,
    class_label_dropout=0.0,
)
CODES = torch.from_numpy(integers("rar-ids", (2, 256), 1024))
TINY_CODES = torch.from_numpy(integers("tiny-ids", (3, 16), 32))
CLASSES, TINY_CLASSES = torch.tensor([207, 999]), torch.tensor([0, 4, 10])
SCHEDULES = json.loads((PARITY / "schedules_1d.json").read_text())


@torch.no_grad()
def filled(config: RARConfig, layout: CodeLayout) -> RARGenerator:
    model = RARGenerator(config, layout).eval()
    fill(model)
    for name, parameter in model.named_parameters():
        if name.endswith(("pos_embed", "cls_token")):
            parameter.copy_(torch.from_numpy(normal(name, parameter.shape)))
    return model


def orders(name: str, shape: tuple[int, int]) -> torch.Tensor:
    return torch.from_numpy(np.argsort(integers(name, shape, 2**40), axis=1, kind="stable"))


def noise_for(orders: torch.Tensor) -> torch.Tensor:
    """Noise from which a loss at step 0 draws these orders."""
    ranks = torch.arange(orders.shape[1], dtype=torch.float64).expand_as(orders) / orders.shape[1]
    return torch.cat([torch.zeros(len(orders), 1, dtype=torch.float64), ranks.gather(1, orders.argsort(1))], dim=1)


ORDERS, TINY_ORDERS = orders("rar-order", (2, 256)), orders("tiny-order", (3, 16))


@pytest.fixture(scope="module")
def rar_b():
    return filled(*(SIZES["b"][0], LAYOUT))


@pytest.mark.parametrize("size", SIZES)
def test_keys_shapes_and_parameter_counts(size):
    config, count = SIZES[size]
    with torch.device("meta"):
        model = RARGenerator(config, LAYOUT)
    assert shapes(model) == published_shapes(f"rar_{size}")
    assert sum(p.numel() for p in model.parameters()) == count


@torch.no_grad()
def test_tiny_logits_match(parity):
    expected, model = parity("rar_tiny"), filled(TINY, TINY_LAYOUT)
    assert (TINY_ORDERS.numpy() == expected["orders"]).all()
    assert_close(model(TINY_CODES, TINY_CLASSES), expected["logits_raster"], 1e-5)
    permuted = model(TINY_CODES.gather(1, TINY_ORDERS), TINY_CLASSES, orders=TINY_ORDERS)
    assert_close(permuted, expected["logits_permuted"], 1e-5)


@pytest.mark.parametrize(("name", "scale", "power"), [("", 4.0, 1.0), ("_constant", 4.0, 0.0), ("_unguided", 0.0, 1.0)])
def test_tiny_greedy_codes_match(parity, name, scale, power):
    settings = SamplingSettings(scale, power, temperature=0)
    codes = draw_codes(filled(TINY, TINY_LAYOUT), torch.tensor([0, 4, 9]), torch.zeros(3, 16), settings)
    assert (codes.numpy() == parity("rar_tiny")[f"greedy{name}"]).all()


def test_tiny_training_matches(parity):
    """Losses of five updates on permuted orders, gradients of the first, which weights decay, final weights."""
    expected, model = parity("rar_tiny"), filled(TINY, TINY_LAYOUT).train()
    parameters = dict(model.named_parameters())
    names = [str(name) for name in expected["parameter_names"]]
    assert set(names) == parameters.keys()
    decayed = [model.decays(name, parameters[name]) for name in names]
    assert decayed == [bool(x) for x in expected["decayed"]]
    params = AdamWParams(beta1=0.9, beta2=0.96, weight_decay=0.5)
    optimizer = make_adamw(parameter_groups(model, 0.5), params, 0.01)
    losses = []
    for step in range(5):
        loss = model.loss(TINY_CODES, TINY_CLASSES, Progress(0, 1), noise_for(TINY_ORDERS)).value
        loss.backward()
        if step == 0:
            assert_close([parameters[name].grad.norm() for name in names], expected["grad_norms"])
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert_close(losses, expected["losses"])
    # Keys' biases have a true gradient of zero, and Adam makes steps of its rounding error.
    kept = np.array([not name.endswith("k_norm.bias") for name in names])
    norms = np.array([parameters[name].detach().norm() for name in names])
    assert_close(norms[kept], expected["final_norms"][kept])


@torch.no_grad()
def test_first_positions_match_the_published_model(rar_b, parity):
    """The model is causal, so a few codes are enough for the logits of the first positions."""
    expected = parity("rar_b")
    assert (ORDERS.numpy() == expected["orders"]).all()
    few = 16
    first = expected["positions"] <= few
    assert first.sum() >= 2
    for name, order in (("raster", None), ("permuted", ORDERS)):
        codes = CODES if order is None else CODES.gather(1, order)
        logits = rar_b(codes[:, :few], CLASSES, orders=order)
        picked = logits[:, expected["positions"][first]][:, :, expected["vocab"]]
        assert_close(picked, expected[f"logits_{name}"][:, first])
        assert_close(logits.logsumexp(-1), expected[f"logsumexp_{name}"][:, : few + 1])
        assert (logits.argmax(-1).numpy() == expected[f"argmax_{name}"][:, : few + 1]).all()


@pytest.mark.slow
@torch.no_grad()
def test_forward_matches_the_published_model(rar_b, parity):
    expected = parity("rar_b")
    for name, order in (("raster", None), ("permuted", ORDERS)):
        codes = CODES if order is None else CODES.gather(1, order)
        logits = rar_b(codes, CLASSES, orders=order)
        assert logits.shape == (2, 257, 1024)
        assert_close(logits[:, expected["positions"]][:, :, expected["vocab"]], expected[f"logits_{name}"])
        assert_close(logits.logsumexp(-1), expected[f"logsumexp_{name}"])
        assert (logits.argmax(-1).numpy() == expected[f"argmax_{name}"]).all()
    no_class = rar_b(codes, torch.full_like(CLASSES, 1000), orders=ORDERS)
    assert_close(no_class[:, expected["positions"]][:, :, expected["vocab"]], expected["uncond_logits_permuted"])


@pytest.mark.slow
@torch.no_grad()
def test_loss_matches_the_published_one(rar_b, parity):
    expected = parity("rar_b")
    for name, arguments in (("raster", (None, None)), ("permuted", (Progress(0, 1), noise_for(ORDERS)))):
        loss = rar_b.loss(CODES, CLASSES, *arguments)
        assert_close(loss.value, expected[f"loss_{name}"])
        assert round(float(loss.accuracy) * CODES.numel()) == expected[f"correct_tokens_{name}"]


@pytest.mark.slow
@torch.no_grad()
def test_greedy_codes_match_the_published_sampler(rar_b, parity):
    arrays, settings = parity("rar_b"), SamplingSettings(16.0, 2.75, temperature=0)
    expected = torch.from_numpy(arrays["greedy_pow"]).long()
    # Each published code is the best one after the published codes before it, except at near ties.
    conditional = rar_b(expected[:, :-1], CLASSES)
    unconditional = rar_b(expected[:, :-1], torch.full_like(CLASSES, 1000))
    scales = torch.tensor([guidance_scale(t, 256, 16.0, 2.75) for t in range(256)])
    best = (unconditional + scales[:, None] * (conditional - unconditional)).argmax(-1)
    near_ties = torch.from_numpy(arrays["greedy_pow_gaps"]) < 1e-3
    assert near_ties[best != expected].all()
    certain = int(near_ties.any(0).int().argmax()) or 256  # codes before the first near tie of any image
    drawn = first_codes(rar_b, CLASSES, settings, DRAWN)
    assert torch.equal(drawn[:, :certain], expected[:, : min(DRAWN, certain)])


def test_schedules_match():
    for step, share in SCHEDULES["rar_random_ratio"].items():
        assert RARConfig().random_share(int(step)) == pytest.approx(share, abs=1e-12)
    for step, rate in SCHEDULES["lr_rar"].items():
        assert warmup_cosine(int(step), base=4e-4, end=1e-5, warmup_steps=62_500, total_steps=250_000) == pytest.approx(
            rate, rel=1e-9
        )
    for name, scales in SCHEDULES["guidance_rar"].items():
        scale, power = (float(part.split("=")[1]) for part in name.split())
        for position, expected in scales.items():
            assert guidance_scale(int(position), 256, scale, power) == pytest.approx(expected, rel=1e-12)
