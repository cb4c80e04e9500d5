"""SoftCFG: the factors, and that they reach the unconditional rows of every layer at every position."""

import pytest
import torch
from torch import Tensor

from modeling.build import cast_parameters
from modeling.layers.head_norms import HeadNorms
from sampling.autoregressive import AutoregressiveDecoder, _Batch
from sampling.noise import image_noise
from sampling.settings import SamplingOptions, SamplingSettings
from tests.support import toy
from tests.support.decoding import draw_codes
from tests.support.toy.rar import rar_generator

T = toy.NUM_CODES
CLASSES = torch.tensor([0, 3, 1])
SCALE = 6.0
SOFT = SamplingSettings(SCALE, 1.0, soft_guidance=True)
GENERATORS = {"alitok": toy.generator, "rar": rar_generator}


def confidence(model, codes: Tensor) -> Tensor:
    """(B, T), from the whole conditional forward pass; codes: (B, T)."""
    return model(codes[:, :-1], CLASSES).softmax(-1).amax(-1)


class WeightedLayer:
    """In place of a layer of a cache: causal attention written out, with a factor for each query and position."""

    def __init__(self, factors: Tensor):
        self.factors = factors

    def attend(self, q: Tensor, k: Tensor, v: Tensor, norms: HeadNorms) -> Tensor:
        q, k = norms(q, k)
        attended = torch.zeros_like(v)
        for place in range(q.shape[2]):
            scores = (q[:, :, place : place + 1] * k[:, :, : place + 1]).sum(-1) * q.shape[-1] ** -0.5
            weights = scores.softmax(-1) * self.factors[:, None, place, : place + 1]
            attended[:, :, place] = (weights[..., None] * v[:, :, : place + 1]).sum(2)
        return attended


def unconditional_logits(model, codes: Tensor, soft: bool) -> Tensor:
    """Logits (B, T, K) without a class, from one pass; soft: with SoftCFG's factors at every position."""
    p, special = confidence(model, codes), model.num_special
    factors = torch.ones(len(codes), special + T, special + T)
    for fed in range(1, T * soft):  # this code is at the own position, and those before it are in the cache
        for i in range(fed):
            factors[:, special + fed, special + i] = 1 - p[:, i] / p[:, :fed].sum(1)
    no_class = torch.full_like(CLASSES, model.num_classes)
    cache = model.new_cache(no_class)
    cache.layers = [WeightedLayer(factors)] * len(model.blocks)
    return model(codes[:, :-1], no_class, cache)


@torch.no_grad()
@pytest.mark.parametrize("name", GENERATORS)
@pytest.mark.parametrize("count", [0, 5])
def test_logits_follow_the_formula(name, count):
    """count: codes that are kept and enter the cache in one pass."""
    model, found = GENERATORS[name](), []
    model.register_forward_hook(lambda _model, _inputs, logits: found.append(logits[:, -1]))
    decoder, noise = AutoregressiveDecoder(model, SOFT), image_noise(0, range(3), T)
    kept = torch.randint(0, toy.CODEBOOK_SIZE, (3, T), generator=torch.Generator().manual_seed(2))
    kept[:, count:] = -1
    codes = decoder(CLASSES, noise, kept)
    conditional, unconditional = torch.stack(found[count - T :], dim=1).split(3)
    torch.testing.assert_close(conditional, model(codes[:, :-1], CLASSES)[:, count:], atol=1e-5, rtol=1e-4)
    soft, plain = (unconditional_logits(model, codes, soft)[:, count:] for soft in (True, False))
    torch.testing.assert_close(unconditional, soft, atol=1e-5, rtol=1e-4)
    changed = (soft - plain).abs().amax((0, 2))
    assert (changed[max(2 - count, 0) :] > 1e-2).all()
    assert (changed[: max(2 - count, 0)] < 1e-5).all()


@torch.no_grad()
@pytest.mark.parametrize("name", GENERATORS)
def test_the_budget_is_one(name):
    """While each code is drawn, from the third on: before, the cache holds no code."""
    model = GENERATORS[name]()
    batch, special = _Batch(AutoregressiveDecoder(model, SOFT), 3, torch.device("cpu")), model.num_special
    batch.fill(CLASSES, image_noise(0, range(3), T), torch.empty(3, 0, dtype=torch.int64))
    budgets, codes_weighted = [], []
    for position in range(T):
        batch.draw(position)
        conditional, unconditional = batch.cache.value_weights.split(3)
        assert (conditional == 1).all()
        assert (unconditional[:, :special] == 1).all()
        budgets.append((1 - unconditional).sum(1))
        codes_weighted.append((unconditional < 1).sum(1).tolist())
    torch.testing.assert_close(torch.stack(budgets)[2:], torch.ones(T - 2, 3))
    assert codes_weighted == [[0] * 3, *([n] * 3 for n in range(T - 1))]
    torch.testing.assert_close(batch.soft.confidence, confidence(model, batch.codes))


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", GENERATORS)
def test_factors_of_one_change_no_bit(name, dtype):
    model = GENERATORS[name]()
    cast_parameters(model, dtype)
    codes = torch.randint(0, toy.CODEBOOK_SIZE, (3, T), generator=torch.Generator().manual_seed(2))
    found = []
    for weighted in (False, True):
        cache = model.new_cache(CLASSES)
        if weighted:
            cache.value_weights = torch.ones(3, cache.keys.shape[3])
        found.append(torch.cat([model(codes[:, max(t - 1, 0) : t], CLASSES, cache)[:, -1] for t in range(T)]))
    assert torch.equal(*found)


@pytest.mark.parametrize("name", GENERATORS)
def test_samples_do_not_depend_on_the_batch(name):
    model, ids = GENERATORS[name](), range(10)
    classes, noise = torch.tensor([i % toy.NUM_CLASSES for i in ids]), image_noise(3, ids, T)
    together = draw_codes(model, classes, noise, SOFT)
    parts = [draw_codes(model, classes[i : i + 3], noise[i : i + 3], SOFT, fixed_rows=4) for i in (0, 3, 6, 9)]
    assert torch.equal(together, torch.cat(parts))


def test_without_it_caches_have_no_weights():
    for settings in (SamplingSettings(SCALE), SamplingSettings(0.0, soft_guidance=True)):
        batch = _Batch(AutoregressiveDecoder(toy.generator(), settings), 2, torch.device("cpu"))
        assert batch.cache.value_weights is None


def test_the_option_reaches_the_settings():
    config = toy.generator().config
    assert SamplingSettings.from_config(config, **SamplingOptions(soft_guidance=True).changes()).soft_guidance
    assert not SamplingSettings.from_config(config, **SamplingOptions().changes()).soft_guidance
