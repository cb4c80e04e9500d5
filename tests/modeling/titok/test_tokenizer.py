"""What must hold of TiTok's tokenizers whatever their weights."""

import copy
import json
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from modeling.build import build_tokenizer, code_layout, load_pretrained_tokenizer, load_tokenizer
from modeling.interfaces import CodeLayout
from modeling.titok.gaussian import Gaussian
from modeling.titok.settings import TiTokConfig
from tests.support import toy
from tests.support.toy.titok import VARIANTS, titok, titok_config, titok_section
from utils.errors import UserError
from utils.weights import export_weights


def random_images(count: int = 2) -> torch.Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def proxy_file(tmp_path) -> str:
    torch.save(toy.maskgit_vq().state_dict(), tmp_path / "maskgit_vq.bin")
    return str(tmp_path / "maskgit_vq.bin")


def test_codes_lie_on_a_line():
    assert TiTokConfig().layout == CodeLayout(4096, 64, 0, None)
    assert titok_config("single_stage").layout == CodeLayout(32, 6)
    assert titok_config("vae").layout is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vit_enc_patch_size": 7}, "256 is not a multiple of vit_enc_patch_size 7"),
        ({"vit_dec_patch_size": 32}, "makes 8x8 patches, but a two-stage model needs one for each of the 16x16"),
        ({"is_legacy": False}, "finetune_decoder is for two-stage models: set is_legacy=true"),
        ({"quantize_mode": "vae"}, "vae has no two-stage model: set is_legacy=false and finetune_decoder=false"),
        ({"proxy": {"chanels": 64}}, "proxy: Key 'chanels' not in .*Did you mean: 'channels'"),
        ({"vit_enc_model_size": "custom", "encoder": TiTokConfig().encoder_sizes.__class__(30, 2, 4)}, "width 30"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes, message):
    with torch.device("meta"), pytest.raises(UserError, match=message):
        build_tokenizer(TiTokConfig(**changes))


def test_gaussian_latents_are_no_codes():
    with pytest.raises(UserError, match=r"'titok' tokenizer makes continuous latents, not codes; token caches"):
        code_layout(titok_config("vae"))


@torch.no_grad()
def test_legacy_models_read_the_latents_in_memory_order():
    """Channel w of position t is number w * T + t of the flattened (T, width) tokens."""
    legacy, ordinary = titok("stage2").encoder, titok("single_stage").encoder
    ordinary.load_state_dict(legacy.state_dict())
    tokens = torch.randn(6, 32)
    for encoder in (legacy, ordinary):
        encoder.conv_out, encoder.ln_post, encoder.ln_pre = nn.Identity(), nn.Identity(), nn.Identity()
        encoder.transformer = nn.ModuleList()
        encoder.latent_token_positional_embedding.zero_()
    mixed, in_order = (encoder(random_images(1), tokens)[0, :, 0] for encoder in (legacy, ordinary))
    assert torch.equal(in_order, tokens.T)
    assert torch.equal(mixed, tokens.flatten().view(32, 6))


@torch.no_grad()
def test_every_code_and_patch_counts():
    """The encoder sees all patches, the decoder all codes, and every place of the image its own position."""
    model = titok("single_stage")
    images = random_images(1)
    for row, column in ((0, 0), (1, 3), (3, 3)):
        other = images.clone()
        other[:, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = 0
        assert (model.latents(images) - model.latents(other)).abs().amax((0, 1, 2)).min() > 1e-4
    codes = torch.arange(6)[None]
    for position in range(6):
        other = codes.clone()
        other[0, position] += 10
        change = (model.pixels(model.quantize.lookup(codes)) - model.pixels(model.quantize.lookup(other))).abs()
        assert nn.functional.max_pool2d(change, 4).min() > 1e-5
    swapped = codes.roll(1, dims=1)
    assert not torch.allclose(model.decode(codes), model.decode(swapped))


@torch.no_grad()
def test_pixels_of_a_patch_are_ordered_row_column_colour():
    model = titok("single_stage")
    decoder, p = model.decoder, 4
    decoder.ffn[0].weight.zero_()
    decoder.ffn[0].bias.copy_(torch.arange(3 * p * p))
    nn.init.dirac_(decoder.conv_out.weight)
    pixels = model.pixels(torch.randn(1, 8, 1, 6))
    for row, column, colour in ((0, 0, 0), (1, 2, 1), (7, 30, 2)):
        assert pixels[0, colour, row, column] == ((row % p) * p + column % p) * 3 + colour


@torch.no_grad()
def test_stage_2_mixes_the_rows_of_the_pixel_codebook():
    """A decoder that is sure of its proxy codes gives the picture of these codes."""
    model, proxy = titok("stage2"), toy.maskgit_vq()
    model.pixel_quantize.load_state_dict(proxy.quantize.state_dict())
    model.pixel_decoder.load_state_dict(proxy.decoder.state_dict())
    model.decoder.ffn[2].weight.mul_(1e7)
    latents = torch.randn(1, 8, 1, 6)
    codes = model.decoder(latents).argmax(1).flatten(1)
    assert len(codes.unique()) > 3
    torch.testing.assert_close(model.pixels(latents).clamp(0, 1), proxy.decode(codes), atol=1e-4, rtol=0)


@torch.no_grad()
def test_stage_1_shows_the_picture_of_its_proxy_codes(proxy_file):
    model = titok("stage1", pretrained_tokenizer_weight=proxy_file)
    codes = model.encode(random_images())
    proxy_codes = model.decoder(model.quantize.lookup(codes)).argmax(1).flatten(1)
    assert torch.equal(model.decode(codes), toy.maskgit_vq().decode(proxy_codes))
    assert not any(key.startswith("proxy") for key in model.state_dict())
    assert copy.deepcopy(model).proxy is model.proxy
    with pytest.raises(UserError, match="pretrained_tokenizer_weight is not set"):
        titok("stage1").decode(codes)


def test_training_in_bfloat16(proxy_file):
    """Losses and reconstructions stay float32; the targets of stage 1 are the codes without autocast."""
    targets = []
    for variant in VARIANTS:
        model = titok(variant, **({"pretrained_tokenizer_weight": proxy_file} if variant == "stage1" else {})).train()
        with torch.autocast("cpu", torch.bfloat16):
            output = model(random_images())
            if variant == "stage1":
                targets.append(model.proxy.encode(random_images()))
        sum(term.value for term in output.losses.values()).backward()
        assert all(term.value.dtype == torch.float32 for term in output.losses.values())
        assert output.reconstruction is None or output.reconstruction.dtype == torch.float32
        assert all(parameter.grad is not None for parameter in model.parameters())
    assert torch.equal(targets[0], toy.maskgit_vq().encode(random_images()))


@torch.no_grad()
def test_gaussian_latents():
    model, images = titok("vae"), random_images()
    posterior = model.posterior(images)
    assert posterior.mean.shape == posterior.logvar.shape == (2, 8, 1, 6)
    samples = torch.stack([model.encode(images) for _ in range(400)])
    torch.testing.assert_close(samples.mean(0), posterior.mean, atol=0.25, rtol=0)
    torch.testing.assert_close(samples.std(0), (0.5 * posterior.logvar).exp(), atol=0, rtol=0.2)
    assert model.decode(samples[0]).shape == images.shape
    clamped = Gaussian.from_channels(torch.tensor([0.0, 50.0]).view(1, 2, 1, 1))
    assert clamped.logvar.item() == 20
    kl = Gaussian(torch.full((1, 1, 1, 1), 2.0), torch.full((1, 1, 1, 1), math.log(3.0))).kl()
    exact = torch.distributions.kl_divergence(
        torch.distributions.Normal(2.0, 3.0**0.5), torch.distributions.Normal(0.0, 1.0)
    )
    torch.testing.assert_close(kl, exact.view(1, 1))


@torch.no_grad()
def test_pixels_are_clamped_for_users_only():
    model = titok("single_stage")
    model.decoder.conv_out.bias.fill_(3)
    codes = model.encode(random_images())
    assert model.decode(codes).max() == 1
    assert model.train()(random_images()).reconstruction.max() > 1


@torch.no_grad()
def test_bfloat16_does_not_round_the_pixels():
    model = titok("single_stage")
    with torch.autocast("cpu", torch.bfloat16):
        pixels = model.pixels(torch.randn(1, 8, 1, 6))
    assert pixels.dtype == torch.float32
    assert not torch.equal(pixels, pixels.bfloat16().float())


def test_initial_weights():
    torch.manual_seed(0)
    model = build_tokenizer(titok_config("single_stage", init_std=0.02, codebook_size=512))
    block = model.encoder.transformer[0]
    assert block.mlp.c_fc.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert block.mlp.c_fc.weight.abs().max() > 0.05  # not truncated at two standard deviations
    assert block.attn.in_proj_weight.abs().max().item() == pytest.approx((6 / (4 * 32)) ** 0.5, rel=0.01)
    assert model.quantize.embedding.weight.abs().max().item() == pytest.approx(1 / 512, rel=0.01)
    assert model.latent_tokens.std().item() == pytest.approx(32**-0.5, rel=0.2)
    assert model.decoder.mask_token.std().item() == pytest.approx(32**-0.5, rel=0.5)
    biases = [p for name, p in model.named_parameters() if name.endswith("bias")]
    assert all((bias == 0).all() for bias in biases)


@pytest.mark.parametrize("variant", VARIANTS)
def test_weights_load_from_the_published_kinds_of_files(variant, tmp_path):
    """A torch file, and a folder with config.json, which has no name of a family, and model.safetensors."""
    model = titok(variant)
    state = {key: value for key, value in model.state_dict().items() if key not in model.optional_keys}
    folder = tmp_path / "tokenizer"
    bin_file = export_weights(folder, state)[0]
    section = {key: value for key, value in titok_section(variant).items() if key != "name"}
    tree = {"experiment": {"project": "x"}, "model": {"vq_model": section}, "dataset": {"preprocessing": {}}}
    (folder / "config.json").write_text(json.dumps(tree))
    for loaded in (load_tokenizer(titok_config(variant), bin_file), load_pretrained_tokenizer(folder)):
        assert replace(loaded.config, proxy={}) == replace(titok_config(variant), proxy={})
        assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in state.items())
    assert load_tokenizer(titok_config(variant), folder).layout == model.layout


@pytest.mark.parametrize(
    ("configured", "held", "message"),
    [
        ("stage2", "single_stage", "holds a single-stage TiTok .* asks for a two-stage TiTok with its pixel decoder"),
        ("stage2", "stage1", "holds a two-stage TiTok after stage 1 .*finetune_decoder=false.* asks for a two-stage"),
        ("single_stage", "stage2", "holds a two-stage TiTok with its pixel decoder .* asks for a single-stage TiTok"),
    ],
)
def test_weights_of_another_variant_are_named(configured, held, message, tmp_path):
    file = export_weights(tmp_path, titok(held).state_dict())[1]
    with pytest.raises(UserError, match=f"model.safetensors does not match the configuration: it {message}"):
        load_tokenizer(titok_config(configured), file)


def test_a_missing_hub_repository_is_one_line():
    with pytest.raises(UserError, match="no-such-place is neither a file, nor a folder, nor a hub id"):
        load_tokenizer(titok_config("vae"), "no-such-place")
