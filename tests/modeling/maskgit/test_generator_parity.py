"""The masked generators against numbers of the published code (tests/parity/README.md)."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from modeling.interfaces import CodeLayout, Progress
from modeling.maskgit.generator import build
from modeling.maskgit.masked_transformer import MaskedTransformer
from modeling.maskgit.settings import MaskGITConfig
from sampling import masked
from sampling.masked import MaskedDecoder, MaskedSettings, masked_counts
from sampling.noise import gumbel
from tests.parity.deterministic import fill, integers, normal
from tests.support.parity import PARITY, assert_close, published_shapes, shapes
from train_generator.trainer import parameter_groups
from training.lr_schedule import warmup_cosine
from training.optimizer import AdamWParams, make_adamw

LARGE_UVIT = {"model_type": "UViT", "hidden_size": 1024, "num_hidden_layers": 20, "intermediate_size": 4096}
SIZES = {
    "l32": (32, {}, 177_202_432),
    "b64": (64, {}, 177_227_008),
    "s128": (128, LARGE_UVIT, 294_990_848),
}
PUBLISHED = {
    "l32": MaskedSettings(8, 4.5, "linear", 3.0, 9.5, True),
    "b64": MaskedSettings(8, 3.0, "linear", 3.0, 11.0, True),
    "s128": MaskedSettings(64, 6.9, "power-cosine", 3.0, 2.8, True),
}
CLASSES, TINY_CLASSES = torch.tensor([207, 999]), torch.tensor([0, 4, 9])
SCHEDULES = json.loads((PARITY / "schedules_1d.json").read_text())
NEAR_TIE = 1e-4  # of confidences, which are about 4; rounding changes their order


@torch.no_grad()
def filled(config: MaskGITConfig, layout: CodeLayout) -> MaskedTransformer:
    model = build(config, layout).eval()
    fill(model)
    for name, parameter in model.named_parameters():
        if name.endswith("pos_embed"):
            parameter.copy_(torch.from_numpy(normal(name, parameter.shape)))
    return model


def tiny(network: str) -> MaskedTransformer:
    config = MaskGITConfig(
        model_type=network,
        hidden_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=256,
        condition_num_classes=10,
        dropout=0.0,
        attn_drop=0.0,
        class_label_dropout=0.0,
    )
    return filled(config, CodeLayout(32, 16))


@pytest.fixture(scope="module", params=["l32", "b64", "s128"])
def published(request):
    """Name, model, codes and masks of a published generator."""
    length, changes, _ = SIZES[request.param]
    model = filled(MaskGITConfig(**changes), CodeLayout(4096, length))
    codes, masks = (
        torch.from_numpy(integers(f"titok-gen-{what}-titok_{request.param}", (2, length), high))
        for what, high in (("ids", 4096), ("mask", 2))
    )
    return request.param, model, codes, masks.bool()


def noise_for(masks: torch.Tensor) -> torch.Tensor:
    """Noise from which a loss draws these masks (B, T), and drops no class."""
    counts = masks.sum(1, keepdim=True).double()
    time = (counts / masks.shape[1] * math.pi / 2).cos()
    return torch.cat([time, torch.ones_like(time), 1 - masks.double()], dim=1)


def uniform(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.from_numpy(((integers(name, shape, 2**24) + 0.5) / 2**24).astype(np.float32)).double()


def trajectory(monkeypatch, model: MaskedTransformer, settings: MaskedSettings, classes, noise: str, steps: int):
    """Codes after each of the first `steps` sampling steps, (steps, B, T), from published Gumbel noise.

    The published sampler takes a uniform number for each code of a position; this project's takes one for the
    position. So here that one number is the index of the published ones.
    """
    rows, length, codebook_size = len(classes), model.layout.num_codes, model.layout.codebook_size
    index = torch.arange(rows * length, dtype=torch.float64).view(rows, 1, length).expand(-1, settings.num_steps, -1)
    confidence = torch.zeros(rows, settings.num_steps, length, dtype=torch.float64)
    stage = 0
    if settings.temperature:
        for step in range(steps):
            confidence[:, step] = uniform(f"{noise}-confidence-{step}", (rows, length))

    def draw(logits: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        table = uniform(f"{noise}-codes-{stage}", (rows, length, codebook_size)).flatten(0, 1)
        return (logits.double() + gumbel(table[index.long()])).argmax(-1)

    monkeypatch.setattr(masked, "draw", draw)
    stages, decoder = [], MaskedDecoder(model, settings)
    stream = decoder.stream(classes, torch.stack([index, confidence], dim=-1))
    for stage in range(steps):  # noqa: B007 (`draw` reads it)
        codes = next(stream)
        stages.append(codes.masked_fill(codes < 0, codebook_size))
    return torch.stack(stages)


@pytest.mark.parametrize("size", SIZES)
def test_keys_shapes_and_parameter_counts(size):
    length, changes, count = SIZES[size]
    with torch.device("meta"):
        model = build(MaskGITConfig(**changes), CodeLayout(4096, length))
    assert shapes(model) == published_shapes(f"generator_titok_{size}")
    assert sum(p.numel() for p in model.parameters()) == count


@torch.no_grad()
@pytest.mark.parametrize("network", ["ViT", "UViT"])
def test_tiny_logits_match(parity, network):
    expected, model = parity(f"titok_generator_tiny_{network.lower()}"), tiny(network)
    codes = torch.from_numpy(integers("tiny-ids", (3, 16), 32))
    codes = codes.masked_fill(torch.from_numpy(integers("tiny-mask", (3, 16), 2)).bool(), -1)
    assert_close(model(codes, TINY_CLASSES), expected["logits"], 1e-5)
    assert_close(model(codes, torch.full_like(TINY_CLASSES, 10)), expected["uncond_logits"], 1e-5)


@pytest.mark.parametrize("network", ["ViT", "UViT"])
def test_tiny_trajectories_match(parity, monkeypatch, network):
    expected = parity(f"titok_generator_tiny_{network.lower()}")["noisy_steps"]
    settings = MaskedSettings(6, 3.0, "power-cosine", 2.0, 1.5, True)
    found = trajectory(monkeypatch, tiny(network), settings, TINY_CLASSES, "tiny-noise", 6)
    assert (found.numpy() == expected).all()


@pytest.mark.parametrize("network", ["ViT", "UViT"])
def test_tiny_training_matches(parity, network):
    """Losses of five updates, gradients of the first, which weights decay, final weights."""
    expected, model = parity(f"titok_generator_tiny_{network.lower()}"), tiny(network).train()
    codes, masks = (
        torch.from_numpy(integers(f"tiny-{what}", (3, 16), high)) for what, high in (("ids", 32), ("mask", 2))
    )
    parameters = dict(model.named_parameters())
    names = [str(name) for name in expected["parameter_names"]]
    assert set(names) == parameters.keys()
    assert [model.decays(name, parameters[name]) for name in names] == expected["decayed"].tolist()
    params = AdamWParams(beta1=0.9, beta2=0.96, weight_decay=0.5)
    optimizer = make_adamw(parameter_groups(model, 0.5), params, 0.01)
    losses = []
    for step in range(5):
        loss = model.loss(codes, TINY_CLASSES, Progress(step, 5), noise_for(masks.bool()))
        loss.value.backward()
        if step == 0:
            assert float(loss.accuracy) == pytest.approx(float(expected["correct_tokens"]))
            assert_close([parameters[name].grad.norm() for name in names], expected["grad_norms"])
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.value.item())
    assert_close(losses, expected["losses"])
    # Keys' biases have a true gradient of zero, and Adam makes steps of its rounding error.
    kept = np.array([not name.endswith("key.bias") for name in names])
    norms = np.array([parameters[name].detach().norm() for name in names])
    assert_close(norms[kept], expected["final_norms"][kept])


@pytest.mark.slow
@torch.no_grad()
def test_logits_and_loss_match_the_published_model(published, parity):
    name, model, codes, masks = published
    expected, corrupted = parity(f"titok_generator_{name}"), codes.masked_fill(masks, -1)
    logits = model(corrupted, CLASSES)
    assert logits.shape == (2, SIZES[name][0], 4096)
    assert_close(logits[:, expected["positions"]][:, :, expected["vocab"]], expected["logits"])
    assert_close(logits.logsumexp(-1), expected["logsumexp"])
    assert (logits.argmax(-1).numpy() == expected["argmax"]).all()
    loss = model.loss(codes, CLASSES, Progress(0, 1), noise_for(masks))
    assert_close(loss.value, expected["loss"])
    assert float(loss.accuracy) == pytest.approx(float(expected["correct_tokens"]), abs=1e-6)
    places = torch.from_numpy(expected["positions"]).expand(2, -1)
    no_class = model(corrupted, torch.full_like(CLASSES, 1000), places)
    assert_close(no_class[:, :, expected["vocab"]], expected["uncond_logits"])


@pytest.mark.slow
@torch.no_grad()
def test_greedy_trajectories_match_the_published_sampler(published, parity, monkeypatch):
    name, model, *_ = published
    expected = torch.from_numpy(parity(f"titok_generator_{name}")["greedy_steps"]).long()
    settings = replace(PUBLISHED[name], temperature=0)
    if name == "s128":
        expected = expected[:4]
    found = trajectory(monkeypatch, model, settings, CLASSES, "", len(expected))
    if torch.equal(found, expected):
        return
    # One swap of two nearly equal confidences changes all that follows. Then every published sampling step must
    # follow from the published one before it, except at near ties.
    assert (found[:2] == expected[:2]).all()
    decoder, before = MaskedDecoder(model, settings), torch.full_like(expected[0], -1)
    for step, after in enumerate(expected):
        masked_before = before < 0
        places = masked_before.nonzero()[:, 1].view(2, -1)
        logits = decoder._logits(step, before, CLASSES, places)
        confidence = torch.full(before.shape, torch.inf).scatter(1, places, logits.amax(-1))
        best = torch.full_like(before, -1).scatter(1, places, logits.argmax(-1))
        masked_after = after == 4096
        drawn = masked_before & ~masked_after
        assert (after[drawn] == best[drawn]).all()
        assert (after[~masked_before] == before[~masked_before]).all()
        least_kept = confidence.masked_fill(masked_after, torch.inf).amin(1)
        most_masked = confidence.masked_fill(~masked_after, -torch.inf).amax(1)
        assert (masked_after.sum(1) == masked_counts(found.shape[2], settings.num_steps)[step]).all()
        assert (most_masked - least_kept < NEAR_TIE).all()
        before = after.masked_fill(masked_after, -1)


@pytest.mark.slow
def test_noisy_trajectories_match_the_published_sampler(published, parity, monkeypatch):
    name, model, *_ = published
    expected = parity(f"titok_generator_{name}")
    steps = 8 if name == "l32" else 4  # the noise of all 64 steps of s128 takes minutes
    found = trajectory(monkeypatch, model, PUBLISHED[name], CLASSES, f"titok-gen-noise-titok_{name}", steps)
    assert (found.numpy() == expected["noisy_steps"][:steps]).all()
    if name == "l32":
        settings = MaskedSettings(8, 4.5, "constant", temperature=1.0)
        found = trajectory(monkeypatch, model, settings, CLASSES, "titok-gen-constant", 8)
        assert (found.numpy() == expected["constant_steps"]).all()


def test_schedules_match():
    for step, rate in SCHEDULES["lr_titok_generator"].items():
        assert warmup_cosine(int(step), base=2e-4, end=1e-5, warmup_steps=10_000, total_steps=500_000) == pytest.approx(
            rate, rel=1e-9
        )
    for step, scale in SCHEDULES["guidance_titok_s128"].items():
        assert PUBLISHED["s128"].guidance_weight(int(step)) + 1 == pytest.approx(scale, rel=1e-12)
    found = [PUBLISHED["l32"].guidance_weight(step) for step in range(8)]
    assert found == pytest.approx(SCHEDULES["guidance_titok_l32"])
    for name, counts in SCHEDULES["masked_after_step"].items():
        length, steps = (int(part.split("=")[1]) for part in name.split())
        assert masked_counts(length, steps) == counts
