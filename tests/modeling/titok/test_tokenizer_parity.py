"""TiTok's tokenizers against numbers of the published code (tests/parity/README.md).

ALL_PARITY=1 compares all nine; without it only the smallest two-stage one, and the encoder of a Gaussian one.
"""

import os

import pytest
import torch
from torch import Tensor

from modeling.build import build_tokenizer
from modeling.configs import read_tokenizer_config
from modeling.titok.tokenizer import TiTok
from tests.parity.deterministic import fill, image, integers, normal
from tests.support.parity import assert_close, published_shapes, shapes
from tests.support.paths import ROOT

PIXELS = integers("titok-pixels", (2048,), 3 * 256 * 256)
LOGITS = integers("titok-logit-positions", (1024,), 1024 * 256)
PIXEL_TOLERANCE = 3e-4  # what the fixtures' README states for pixels of MaskGIT-VQ's decoder
PARAMETERS = {
    "titok_l32": 641_054_735,
    "titok_b64": 204_814_095,
    "titok_s128": 83_674_639,
    "titok_bl64_vq8k": 390_016_148,
    "titok_bl128_vq8k": 390_179_988,
    "titok_sl256_vq8k": 330_260_884,
    "titok_ll32_vae_c16": 606_879_604,
    "titok_bl64_vae_c16": 389_418_100,
    "titok_bl128_vae_c16": 389_581_940,
}
CODES = [name for name in PARAMETERS if "vae" not in name]
GAUSSIAN = [name for name in PARAMETERS if "vae" in name]


def only_when_asked(names: list[str], always: tuple[str, ...] = ()) -> list:
    skipped = pytest.mark.skipif("ALL_PARITY" not in os.environ, reason="a minute of a CPU each; set ALL_PARITY=1")
    return [pytest.param(name, marks=() if name in always else skipped) for name in names]


def on_meta(name: str) -> TiTok:
    with torch.device("meta"):
        return build_tokenizer(read_tokenizer_config(ROOT / f"configs/infer/TiTok/{name}.yaml"))


def filled(model: TiTok) -> TiTok:
    """The fixtures' weights. model: on the meta device."""
    model.to_empty(device="cpu").eval().requires_grad_(False)
    fill(model)
    for key, value in model.state_dict().items():
        if key.endswith("mask_token"):
            value.copy_(torch.from_numpy(normal(key, value.shape)))
    return model


def published_keys(model: TiTok) -> dict[str, list[int]]:
    return {key: shape for key, shape in shapes(model).items() if key not in model.optional_keys}


def assert_pixels(pixels: Tensor, expected: dict, what: str, tolerance: float) -> None:
    """pixels: (1, 3, H, W)."""
    assert_close(pixels.flatten()[PIXELS], expected[f"{what}_pixels"], tolerance)
    assert_close(pixels[0].mean((1, 2)), expected[f"{what}_mean"], tolerance)
    assert_close(pixels[0].std((1, 2)), expected[f"{what}_std"], tolerance)


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.from_numpy(image("titok-image", 256, 2))


@pytest.mark.parametrize("name", PARAMETERS)
def test_keys_shapes_and_parameter_counts(name):
    model = on_meta(name)
    assert published_keys(model) == published_shapes(name)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", only_when_asked(CODES, always=("titok_s128",)))
def test_tokenizers_with_codes_match(name, images, parity):
    expected, model = parity(name), filled(on_meta(name))
    two_stage = model.config.is_legacy
    tolerance = PIXEL_TOLERANCE if two_stage else 1e-4
    z = model.latents(images)
    assert_close(z[: len(expected["z"])], expected["z"])
    codes = model.quantize.assign(z)
    assert (codes.numpy() == expected["codes"]).all()
    assert_close(model.quantize(z)[1], expected["quantizer_loss"])
    first = model.quantize.lookup(codes[:1])
    if two_stage:
        assert_close(model.decoder(first).flatten()[LOGITS], expected["proxy_logits"])
    assert_pixels(model.pixels(first), expected, "reconstruction", tolerance)
    others = torch.from_numpy(integers(f"titok-codes-{name}", (1, model.layout.num_codes), model.layout.codebook_size))
    pixels = model.pixels(model.quantize.lookup(others))
    assert_pixels(pixels, expected, "decoded", tolerance)
    assert_close(model.decode(others), pixels.clamp(0, 1))


@pytest.mark.slow
@pytest.mark.parametrize("name", only_when_asked(GAUSSIAN, always=("titok_bl64_vae_c16",)))
def test_gaussian_tokenizers_match(name, images, parity):
    """Without ALL_PARITY only the encoder: the decoder has three quarters of the parameters."""
    expected, model = parity(name), on_meta(name)
    if "ALL_PARITY" not in os.environ:
        del model.decoder
    model = filled(model)
    posterior = model.posterior(images)
    assert_close(posterior.mean, expected["mean"])
    assert_close(posterior.logvar, expected["logvar"])
    assert_close(posterior.kl(), expected["kl"])
    if "ALL_PARITY" not in os.environ:
        return
    assert_pixels(model.pixels(posterior.mean[:1]), expected, "reconstruction", 1e-4)
    noise = torch.from_numpy(normal(f"titok-vae-noise-{name}", posterior.mean[:1].shape))
    latents = type(posterior)(*(part[:1] for part in posterior)).sample(noise)
    assert_pixels(model.pixels(latents), expected, "decoded", 1e-4)
