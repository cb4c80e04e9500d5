"""What only a GPU can show: sampling, codes, attention. test_gpu_training.py: training; test_two_gpus.py: several.

All other tests run on the CPU. Run these with

CUDA_VISIBLE_DEVICES=0,1 python -m pytest tests/test_gpu.py tests/test_gpu_training.py tests/test_two_gpus.py
REHEARSE_GPU_TESTS=1 python -m pytest tests/test_gpu.py tests/test_gpu_training.py tests/test_two_gpus.py    # on a CPU

Codes are compared with TensorFloat-32 off. bfloat16 is compared with float32 after the same codes, because one code
that rounding changes would change all that follow.
"""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from evaluation.fid import Statistics, frechet_distance
from modeling.build import build_generator, build_tokenizer, code_layout, to_inference
from modeling.layers.attention import attention, materialised_attention
from sampling.masked import MaskedDecoder, MaskedSettings
from sampling.noise import draw, image_noise
from sampling.pipeline import Pipeline
from sampling.settings import SamplingSettings
from tests.support import toy
from tests.support.decoding import cached_logits, draw_codes
from tests.support.gpu import (
    DEVICE,
    LARGE,
    REHEARSAL,
    large_config,
    needs_gpu,
    not_rehearsed,
    without_tf32,  # noqa: F401
)
from tests.support.toy.maskgit import NETWORKS, masked_generator
from tests.support.toy.rar import rar_generator
from tests.support.toy.titok import titok

SETTINGS = SamplingSettings(4.0, 1.0)
PRECISION = {"precision": "bf16"} if REHEARSAL else {}  # the default on a GPU

pytestmark = needs_gpu


def large_generator(name: str):
    """The same weights in every call, with distributions that are far from uniform."""
    torch.manual_seed(0)
    models = large_config(name).model
    generator = build_generator(models.generator, code_layout(models.vq_model))
    for parameter in generator.parameters():
        if parameter.ndim == 2 and not parameter.any():  # initial zeros: all codes equally likely
            torch.nn.init.normal_(parameter, std=0.05)
    return to_inference(generator, DEVICE)


def pipeline(generator, settings=SETTINGS, **options) -> Pipeline:
    models = (to_inference(model, DEVICE) for model in (toy.tokenizer(init_std=0.3), generator))
    return Pipeline(*models, settings, **({"precision": "fp32", "batch_size": 4} | options))


def assert_same_draws(codes: Tensor, expected: Tensor) -> None:
    """But for one image: rounding may move a draw across a boundary, and change the codes after it."""
    same = (codes.cpu() == expected).all(dim=1)
    assert same.sum() >= len(same) - 1, codes.cpu() - expected


def share_of_own_draws(generator, codes: Tensor, class_ids: Tensor, noise: Tensor) -> float:
    """Share of the codes (B, T) that `generator` draws from the same noise after the same codes."""
    classes = torch.cat([class_ids, torch.full_like(class_ids, generator.num_classes)])
    logits = torch.stack(list(cached_logits(generator, torch.cat([codes, codes]), classes)), dim=1)
    conditional, unconditional = logits.chunk(2)
    scales = torch.tensor(SETTINGS.scales(codes.shape[1]), device=codes.device)[:, None]
    guided = unconditional + scales * (conditional - unconditional)
    drawn = draw(guided.flatten(0, 1), noise.to(codes.device).flatten()).view_as(codes)
    return float((drawn == codes).float().mean())


@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("make_generator", [toy.generator, rar_generator])
def test_graphs_draw_what_the_cpu_draws(make_generator, compile):
    drawn = pipeline(make_generator(), compile=compile)
    for classes in ([0, 1, 2, 3], [3, 1], [2, 2, 0, 1], [1]):  # also with fewer rows than were recorded
        noise = image_noise(0, range(len(classes)), toy.NUM_CODES)
        expected = draw_codes(make_generator(), torch.tensor(classes), noise, SETTINGS)
        assert_same_draws(drawn.generate_codes(classes), expected)


@pytest.mark.parametrize("name", LARGE)
def test_the_default_path_draws_float32s_codes(name):
    """bfloat16, compiled, with graphs, at the width and length of B."""
    exact, rows, config = large_generator(name), 2 if REHEARSAL else 8, large_config(name)
    tokenizer = to_inference(build_tokenizer(config.model.vq_model), DEVICE)
    drawn = Pipeline(tokenizer, large_generator(name), SETTINGS, batch_size=rows, **PRECISION)
    assert drawn.precision == "bf16"
    for seed in range(3):  # graphs may be recorded in the first or second batch, and are replayed in the third
        classes = torch.tensor([(seed + i) % 4 for i in range(rows)], device=DEVICE)
        noise = image_noise(seed, range(rows), exact.layout.num_codes)
        codes = drawn.generate_codes(classes.tolist(), seed=seed)
        assert share_of_own_draws(exact, codes, classes, noise) > 0.9, seed
    assert torch.equal(drawn.generate_codes(classes.tolist(), seed=seed), codes)
    assert drawn.decode(codes).shape == (rows, 3, 256, 256)


@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("build", [toy.generator, rar_generator])
def test_soft_guidance_and_completion_draw_what_the_cpu_draws(build, compile):
    """Kept codes enter the cache outside the recorded work, which then draws the others."""
    soft, classes, kept = replace(SETTINGS, soft_guidance=True), [0, 1, 2, 3], torch.full((4, toy.NUM_CODES), -1)
    drawn = pipeline(build(), soft, compile=compile)
    expected = draw_codes(build(), torch.tensor(classes), image_noise(0, range(4), toy.NUM_CODES), soft)
    assert_same_draws(drawn.generate_codes(classes), expected)
    for count in (1, 4, 2):
        kept[:] = -1
        kept[:, :count] = expected[:, :count]
        completed = drawn.generate_codes(classes, kept=kept)
        assert torch.equal(completed[:, :count].cpu(), expected[:, :count])
        assert_same_draws(completed, expected)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("compile", [False, True])
def test_masked_decoding_draws_what_the_cpu_draws(network, compile):
    settings, classes = MaskedSettings(4, 3.0, temperature=1.0), [0, 1, 2, 3]
    drawn = pipeline(masked_generator(network), settings, compile=compile)
    decoder = MaskedDecoder(masked_generator(network), settings)
    noise = image_noise(0, range(4), decoder.noise_shape)
    assert_same_draws(drawn.generate_codes(classes), decoder(torch.tensor(classes), noise))
    assert drawn.generate_codes(classes[:2]).shape == (2, toy.NUM_CODES)


@pytest.mark.parametrize("network", NETWORKS)
def test_the_default_path_of_masked_decoding_is_close_to_float32(network):
    """bfloat16 and compiled: the codes that both leave unmasked after the first sampling step."""
    settings = MaskedSettings(4, 3.0, temperature=1.0)
    drawn = pipeline(masked_generator(network), settings, precision="bf16", batch_size=64, compile=None)
    decoder = MaskedDecoder(masked_generator(network), settings)
    classes, noise = torch.arange(64) % 4, image_noise(0, range(64), decoder.noise_shape)
    codes = next(drawn.decoder.stream(classes.to(DEVICE), noise)).cpu()
    expected = next(decoder.stream(classes, noise))
    both = (codes >= 0) & (expected >= 0)
    assert both.sum() > 0.8 * (expected >= 0).sum()
    assert (codes == expected)[both].float().mean() > 0.9


@not_rehearsed
def test_one_batch_at_a_time():
    drawn = pipeline(toy.generator(), compile=False)
    stream = drawn.stream([0, 1], every=1)
    next(stream)
    with pytest.raises(RuntimeError, match="another batch of this decoder is not finished"):
        drawn.generate([2])
    stream.close()
    noise = image_noise(0, range(1), toy.NUM_CODES)
    assert torch.equal(drawn.generate_codes([2]).cpu(), draw_codes(toy.generator(), torch.tensor([2]), noise, SETTINGS))


@pytest.mark.parametrize("make", [toy.tokenizer, toy.maskgit_vq, lambda: titok("single_stage")])
def test_codes_are_the_cpus(make):
    """A token cache in float32, and what the decoder makes of the codes."""
    side = make().image_size
    images = torch.rand(16, 3, side, side, generator=torch.Generator().manual_seed(1))
    here, there = make(), to_inference(make(), DEVICE)
    with torch.no_grad():
        codes, expected = there.encode(images.to(DEVICE)).cpu(), here.encode(images)
        assert len(expected.unique()) > 2
        assert (codes == expected).float().mean() > 0.99
        torch.testing.assert_close(there.decode(expected.to(DEVICE)).cpu(), here.decode(expected), atol=1e-4, rtol=0)


def test_frechet_distance_is_the_cpus():
    features = torch.randn(2, 300, 64, generator=torch.Generator().manual_seed(1))
    expected = frechet_distance(*map(Statistics.from_features, features))
    found = frechet_distance(*map(Statistics.from_features, features.to(DEVICE)))
    assert found == pytest.approx(expected, rel=1e-6)


# Head widths and lengths of AliTok-B, L, XL, their tokenizer, and RAR.
@pytest.mark.parametrize("width", [48, 64, 80])
@pytest.mark.parametrize(("length", "causal"), [(257, True), (273, True), (274, False), (305, False), (529, False)])
def test_attention_is_softmax_attention(width, length, causal):
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(2, 4, length, width, generator=generator).to(DEVICE) for _ in range(4)]
    results = []
    for function, dtype in ((attention, torch.bfloat16), (materialised_attention, torch.float32)):
        q, k, v, gradient = (x.to(torch.bfloat16).to(dtype) for x in tensors)
        inputs = [x.requires_grad_() for x in (q, k, v)]
        output = function(*inputs, causal=causal)
        output.backward(gradient)
        results.append([output.detach().float(), *(x.grad.float() for x in inputs)])
    for found, expected in zip(*results, strict=True):
        assert (found - expected).norm() < 0.02 * expected.norm()


def test_dropout_of_attention_has_its_probability():
    """Weights that are kept are divided by 1 - p, so the mean stays 1. A p that is rounded to 1/16 makes it 1.04."""
    q, k = torch.randn(2, 8, 16, 273, 48, device=DEVICE, dtype=torch.bfloat16)
    output = attention(q.requires_grad_(), k, torch.ones_like(k), causal=False, dropout=0.1)
    assert float(output.detach().float().mean()) == pytest.approx(1, abs=5e-3)


@not_rehearsed
@pytest.mark.parametrize("dropout", [0.1, 0.0])
def test_attention_takes_a_fused_kernel(dropout):
    """Not cuDNN's with dropout: it knows probabilities in sixteenths only."""
    q, k, v = torch.randn(3, 8, 16, 273, 48, device=DEVICE, dtype=torch.bfloat16)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        attention(q.requires_grad_(), k, v, causal=True, dropout=dropout)
    kernels = {"flash", "efficient"} if dropout else {"flash", "efficient", "cudnn"}
    names = {event.name for event in profile.events()}
    chosen = [
        kernel for kernel in ("flash", "efficient", "cudnn") if f"aten::_scaled_dot_product_{kernel}_attention" in names
    ]
    assert len(chosen) == 1, names
    assert chosen[0] in kernels
