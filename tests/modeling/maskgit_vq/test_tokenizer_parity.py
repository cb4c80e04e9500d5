"""MaskGIT-VQ against numbers of the published code (tests/parity/README.md)."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from modeling.build import load_tokenizer
from modeling.maskgit_vq.settings import MaskGITVQConfig
from modeling.maskgit_vq.tokenizer import MaskGITVQ
from tests.parity.deterministic import fill, image, integers
from tests.support.parity import assert_close, published_shapes, shapes

PIXELS = integers("titok-pixels", (2048,), 3 * 256 * 256)
PIXEL_TOLERANCE = 3e-4  # what the fixtures' README states for pixels


@pytest.fixture(scope="module")
def published() -> MaskGITVQ:
    with torch.device("meta"):  # `fill` overwrites the initial weights
        model = MaskGITVQ(MaskGITVQConfig())
    model.to_empty(device="cpu").eval()
    fill(model, tag="maskgit-vq-")
    return model


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.from_numpy(image("maskgit-vq-image", 256, 2))


@pytest.fixture
def before_clamping(published) -> Iterator[list[Tensor]]:
    """What the decoder returns in this test."""
    outputs = []
    handle = published.decoder.register_forward_hook(lambda module, arguments, output: outputs.append(output))
    yield outputs
    handle.remove()


def test_keys_shapes_and_parameter_counts():
    with torch.device("meta"):
        model = MaskGITVQ(MaskGITVQConfig())
    assert shapes(model) == published_shapes("maskgit_vqgan")
    assert sum(p.numel() for p in model.parameters()) == 54_515_587
    assert sum(p.numel() for p in model.encoder.parameters()) == 23_775_104
    assert sum(p.numel() for p in model.decoder.parameters()) == 30_478_339


def test_decoder_and_codebook_have_the_keys_of_titoks_pixel_decoder():
    with torch.device("meta"):
        model = MaskGITVQ(MaskGITVQConfig())
    titok = published_shapes("titok_l32")
    for part, prefix in ((model.decoder, "pixel_decoder."), (model.quantize, "pixel_quantize.")):
        expected = {k.removeprefix(prefix): v for k, v in titok.items() if k.startswith(prefix)}
        assert shapes(part) == expected


@pytest.mark.slow
@torch.no_grad()
def test_encoder_matches_the_published_model(published, images, parity):
    expected = parity("maskgit_vq")
    z = published.encoder(images)
    positions = integers("maskgit-vq-hidden-positions", (4096,), 2 * 256 * 256)
    assert_close(z.flatten()[positions], expected["hidden"])
    codes = published.quantize.assign(z)
    assert (codes.numpy() == expected["codes"]).all()
    distances = published.quantize.distances(z.movedim(1, -1).flatten(0, 2)).sort(1).values
    assert_close(distances[:, 0].mean(), expected["distance_scale"])
    # A difference of numbers that are 50,000 times as large.
    margin = float((distances[:, 1] - distances[:, 0]).min())
    assert margin == pytest.approx(float(expected["smallest_margin"]), abs=1e-3)
    rows = z.flatten(2).unsqueeze(2)  # (B, C, 1, T), as `lookup` returns them
    errors = (published.quantize.lookup(codes) - rows).square()
    assert_close(1.25 * errors.mean(), expected["quantizer_loss"])


@pytest.mark.slow
@torch.no_grad()
def test_decoder_matches_the_published_model(published, before_clamping, parity):
    expected = parity("maskgit_vq")
    decoded = published.decode(torch.from_numpy(integers("maskgit-vq-codes", (1, 256), 1024)))
    (pixels,) = before_clamping
    assert_close(pixels.flatten()[PIXELS], expected["decoded_pixels"], PIXEL_TOLERANCE)
    assert_close(pixels[0].mean((1, 2)), expected["decoded_mean"], PIXEL_TOLERANCE)
    outside = ((pixels < 0) | (pixels > 1)).float().mean()
    assert float(outside) == pytest.approx(float(expected["share_outside_unit_range"]), abs=1e-4)
    assert torch.equal(decoded, pixels.clamp(0, 1))


@pytest.mark.slow
def test_a_file_of_the_published_name_reconstructs(published, before_clamping, images, parity, tmp_path):
    """From the file to the pixels, through the ordinary loading."""
    expected = parity("maskgit_vq")
    torch.save(published.state_dict(), tmp_path / "maskgit-vqgan-imagenet-f16-256.bin")
    loaded = load_tokenizer(MaskGITVQConfig(), tmp_path / "maskgit-vqgan-imagenet-f16-256.bin")
    codes = loaded.encode(images[:1])
    assert (codes.numpy() == expected["codes"][:1]).all()
    published.decode(codes)
    reconstruction = before_clamping[0].flatten()[PIXELS]
    assert_close(reconstruction, expected["reconstruction_pixels"], PIXEL_TOLERANCE)
    assert_close(loaded.decode(codes).flatten()[PIXELS], np.clip(expected["reconstruction_pixels"], 0, 1), 1e-3)
