"""The losses of TiTok's trainings against numbers of the published code (tests/parity/README.md)."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from modeling.build import build_tokenizer
from modeling.interfaces import LossTerm, TokenizerOutput
from modeling.maskgit_vq.settings import MaskGITVQConfig
from modeling.maskgit_vq.tokenizer import MaskGITVQ
from tests.parity.deterministic import fill, image, integers, normal
from tests.support.parity import assert_close, published_shapes, shapes
from tests.support.paths import ROOT
from train_tokenizer.adversary import Adversary
from train_tokenizer.config import TokenizerConfig
from train_tokenizer.loss import TokenizerLoss
from train_tokenizer.phases import PhaseSchedule
from training.distributed import build_accelerator
from training.preemption import StopRequest
from utils.config import load_config

pytestmark = pytest.mark.slow

PIXELS = integers("titok-pixels", (2048,), 3 * 256 * 256)
LOGITS = integers("titok-logit-positions", (1024,), 1024 * 256)
PIXEL_TOLERANCE = 3e-4  # what the fixtures' README states for pixels of MaskGIT-VQ's decoder


def load(stage: int, *overrides: str) -> TokenizerConfig:
    file = ROOT / f"configs/training/TiTok/stage{stage}/titok_s128.yaml"
    return load_config(TokenizerConfig, "", [f"config={file}", "training.mixed_precision=no", *overrides])


def pictures(name: str) -> Tensor:
    return torch.from_numpy(image(name, 256, 2))


def on_cpu(model: nn.Module) -> nn.Module:
    """From the meta device, with any weights."""
    return model.to_empty(device="cpu")


@pytest.fixture(scope="module")
def config() -> TokenizerConfig:
    return load(2, "losses.random_weights=true")


@pytest.fixture(scope="module")
def adversary(config) -> Adversary:
    accelerator = build_accelerator(config.training)
    adversary = Adversary(
        config, accelerator, lambda name, parameter: True, accelerator.autocast, StopRequest(accelerator)
    )
    adversary.prepare()
    fill(adversary.discriminator, tag="discriminator-")
    return adversary


def test_stage_2_losses_before_and_after_the_discriminator_starts(config, adversary, parity):
    expected = parity("titok_losses")
    loss = TokenizerLoss(
        config.losses, PhaseSchedule(config.phases, 0, config.lr_scheduler.params), torch.device("cpu")
    )
    fill(loss.logit_loss.classifier, tag="convnext-")
    images = pictures("titok-loss-image")
    adversary.discriminator.requires_grad_(False)
    for phase, when in zip(config.phases, ("before", "after"), strict=True):
        reconstruction = pictures("titok-loss-reconstruction").requires_grad_()
        error = LossTerm(nn.functional.mse_loss(reconstruction, images), config.model.vq_model.reconstruction_weight)
        output = TokenizerOutput({"reconstruction": error}, reconstruction)
        values = loss(images, output, phase, adversary.discriminator)
        values["loss"].backward()
        assert_close(values["loss"].detach(), expected[f"generator_total_{when}"])
        assert_close(values["reconstruction"].detach(), expected[f"reconstruction_loss_{when}"])
        assert_close(0.1 * values["perceptual"].detach(), expected[f"perceptual_loss_{when}"])
        assert_close(reconstruction.grad.flatten()[PIXELS], expected[f"grad_{when}"])
        assert ("adversarial" in values) == (when == "after")
    assert_close(values["adversarial"].detach(), expected["gan_loss_after"])
    assert_close(0.01 * values["adversarial"].detach(), expected["weighted_gan_loss_after"])


@torch.no_grad()
def test_discriminator_losses_and_running_means(adversary, parity):
    expected, lecam = parity("titok_losses"), adversary.lecam
    for i in range(3):
        values = adversary.loss(pictures(f"titok-disc-real-{i}"), pictures(f"titok-disc-fake-{i}"))
        assert_close(values["loss"], expected[f"discriminator_loss_{i}"])
        assert_close(0.001 * values["lecam"], expected[f"lecam_{i}"])
        assert_close(values["real_logits"], expected[f"logits_real_{i}"])
        assert_close(values["fake_logits"], expected[f"logits_fake_{i}"])
        lecam.update(values["real_logits"], values["fake_logits"])
        assert_close(lecam.ema_real_logits_mean, expected[f"ema_real_{i}"])
        assert_close(lecam.ema_fake_logits_mean, expected[f"ema_fake_{i}"])


@pytest.fixture(scope="module")
def proxy_file(tmp_path_factory) -> Path:
    with torch.device("meta"):  # `fill` overwrites the initial weights
        proxy = MaskGITVQ(MaskGITVQConfig())
    proxy = on_cpu(proxy)
    fill(proxy, tag="maskgit-vq-")
    file = tmp_path_factory.mktemp("proxy") / "maskgit-vqgan-imagenet-f16-256.bin"
    torch.save(proxy.state_dict(), file)
    return file


def test_stage_1_matches_the_published_code(proxy_file, parity):
    expected = parity("titok_stage1")
    config = load(1, f"model.vq_model.pretrained_tokenizer_weight={proxy_file}")
    with torch.device("meta"):
        model = build_tokenizer(config.model.vq_model)
    model = on_cpu(model)
    fill(model)
    model.decoder.mask_token.data.copy_(torch.from_numpy(normal("decoder.mask_token", (1, 1, 512))))
    keys = {key: shape for key, shape in shapes(model).items() if key not in model.optional_keys}
    assert keys == published_shapes("titok_s128_stage1")
    images = pictures("titok-image")

    output = model.train()(images)
    total = sum(term.weight * term.value for term in output.losses.values())
    total.backward()
    assert output.reconstruction is None
    assert_close(total.detach(), expected["total_loss"])
    assert_close(output.losses["proxy"].value.detach(), expected["reconstruction_loss"])
    assert_close(output.losses["quantizer"].value.detach(), expected["quantizer_loss"])
    parameters = dict(model.named_parameters())
    names = expected["parameter_names"].tolist()
    assert list(parameters) == names
    assert_close(torch.stack([parameters[name].grad.norm() for name in names]), expected["grad_norms"])
    assert_close(model.latent_tokens.grad[:4], expected["grad_latent_tokens"])

    with torch.no_grad():
        assert (model.proxy.encode(images).numpy() == expected["proxy_codes"]).all()
        codes = model.eval().encode(images)
        logits = model.decoder(model.quantize.lookup(codes))
        assert_close(logits[0].flatten()[LOGITS], expected["logits"])
        assert (logits.argmax(1).flatten(1).numpy() == expected["argmax"]).all()
        rows = model.quantize.embedding.weight.grad[codes[0, :8]]
        assert_close(rows, expected["grad_codebook"])
        decoded = model.decode(codes[:1]).flatten()[PIXELS]
        assert_close(decoded, expected["decoded_pixels"], PIXEL_TOLERANCE)
