"""Losses with published networks' code and weights read from files, as a user without a network has them."""

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from safetensors.torch import save_file

from modeling.frozen.imagenet_classifiers import IMAGENET_MEAN, IMAGENET_STD, load_classifier
from modeling.frozen.lpips import LPIPS
from modeling.frozen.small_classifier import Classifier, save_classifier
from train_tokenizer.losses import LogitLoss, hinge_discriminator_loss, hinge_generator_loss
from utils.errors import UserError
from utils.pretrained import get_weights


def pair(size: int = 48) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.rand(2, 3, size, size), torch.rand(2, 3, size, size, requires_grad=True)


def test_logit_loss_of_torchvision(tmp_path):
    torch.manual_seed(1)
    network = torchvision.models.resnet18().eval()
    torch.save(network.state_dict(), tmp_path / "resnet18.pth")
    loss = LogitLoss(load_classifier("resnet18", str(tmp_path / "resnet18.pth")))
    images, reconstruction = pair()

    def logits(x: torch.Tensor) -> torch.Tensor:
        x = F.interpolate(x, (224, 224), mode="bilinear", antialias=True)
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
        return network((x - mean) / std)

    value = loss(images, reconstruction)
    torch.testing.assert_close(value, (logits(images) - logits(reconstruction)).square().mean())
    value.backward()
    assert reconstruction.grad.abs().sum() > 0
    assert all(p.grad is None for p in loss.parameters())
    assert loss(images, images) == 0


def test_logit_loss_of_timm(tmp_path):
    """timm's own preprocessing: this network wants 160 pixels."""
    torch.manual_seed(1)
    network = timm.create_model("test_convnext.r160_in1k").eval()
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    classifier = load_classifier("test_convnext.r160_in1k", str(tmp_path / "weights.safetensors"))
    assert classifier.input_size == 160
    loss = LogitLoss(classifier)
    images, reconstruction = pair()
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (classifier.mean, classifier.std))
    a, b = (network((F.interpolate(x, (160, 160), mode="bilinear", antialias=True) - mean) / std) for x in pair())
    torch.testing.assert_close(loss(images, reconstruction), (a - b).square().mean())


def test_logit_loss_of_a_classifier_of_the_data(tmp_path):
    torch.manual_seed(1)
    network = Classifier(4).eval()
    save_classifier(tmp_path / "c.safetensors", network, 32, 0.5)
    loss = LogitLoss(load_classifier("small_classifier", str(tmp_path / "c.safetensors")))
    images, reconstruction = pair(32)
    value = loss(images, reconstruction)
    torch.testing.assert_close(value, (network(images) - network(reconstruction)).square().mean())
    value.backward()
    assert reconstruction.grad.abs().sum() > 0 and all(p.grad is None for p in loss.parameters())
    larger, other = pair(48)  # resized to what the classifier was trained on
    shrunk = (F.interpolate(x, (32, 32), mode="bilinear", antialias=True) for x in (larger, other))
    a, b = (network(x) for x in shrunk)
    torch.testing.assert_close(loss(larger, other), (a - b).square().mean())
    with pytest.raises(UserError, match=r"small_classifier needs losses.perceptual_checkpoint"):
        load_classifier("small_classifier", None)


def test_lpips_is_the_packages(tmp_path):
    import lpips

    torch.manual_seed(1)
    reference = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False).eval()
    slices = [getattr(reference.net, f"slice{i}") for i in range(1, 6)]
    features = {
        f"features.{n}.{k}": v for s in slices for n, m in s.named_children() for k, v in m.state_dict().items()
    }
    torch.save(features, tmp_path / "vgg16.pth")
    metric = LPIPS(tmp_path / "vgg16.pth")
    images, reconstruction = pair()
    value = metric(images, reconstruction)
    expected = reference(images * 2 - 1, reconstruction * 2 - 1).flatten()
    torch.testing.assert_close(value, expected)
    assert value.shape == (2,) and (value > 0).all() and (metric(images, images) == 0).all()


def test_hinge_losses():
    real, fake = torch.tensor([[2.0, 0.5]]), torch.tensor([[-3.0, 0.5]])
    assert hinge_generator_loss(fake) == 1.25
    assert hinge_discriminator_loss(real, fake) == 0.5 * (0.25 + 0.75)


def test_unknown_and_missing_networks(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"'convnext_smal' is neither .*did you mean 'convnext_small'"):
        load_classifier("convnext_smal", None)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody listens there
    with pytest.raises(UserError) as caught:
        load_classifier("convnext_small", None)
    message = str(caught.value)
    assert "https://download.pytorch.org/models/convnext_small-" in message
    assert str(tmp_path / "hub" / "checkpoints" / "convnext_small-") in message
    assert "losses.perceptual_checkpoint" in message
    with pytest.raises(UserError, match=r"losses.perceptual_checkpoint: file not found: .*none.pth"):
        load_classifier("convnext_small", str(tmp_path / "none.pth"))


def test_a_file_in_the_hub_cache_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    url = "https://example.invalid/network-0123abcd.pth"
    place = tmp_path / "hub" / "checkpoints" / "network-0123abcd.pth"
    place.parent.mkdir(parents=True)
    place.write_bytes(b"")
    assert get_weights("a network", url, "--key") == place
