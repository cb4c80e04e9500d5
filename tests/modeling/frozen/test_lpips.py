"""LPIPS against the package `lpips`."""

import pytest
import torch

from modeling.frozen.lpips import LPIPS, load_lpips
from modeling.frozen.small_classifier import Classifier, save_classifier
from utils.errors import UserError


def pair(size: int = 48) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.rand(2, 3, size, size), torch.rand(2, 3, size, size, requires_grad=True)


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
    assert value.shape == (2,)
    assert (value > 0).all()
    assert (metric(images, images) == 0).all()


def test_the_distance_of_a_small_classifier(tmp_path):
    """2 minus twice the cosine of the features at each place, averaged over places and summed over the stages."""
    torch.manual_seed(1)
    network = Classifier(4).eval()
    save_classifier(tmp_path / "c.safetensors", network, 48, 0.5)
    metric = load_lpips("small_classifier", tmp_path / "c.safetensors", "losses.lpips_checkpoint")
    images, reconstruction = pair()
    value = metric(images, reconstruction)
    maps = zip(network.maps(images), network.maps(reconstruction), strict=True)
    expected = sum((2 - 2 * torch.cosine_similarity(a, b)).mean((1, 2)) for a, b in maps)
    torch.testing.assert_close(value, expected)
    assert value.shape == (2,)
    assert (metric(images, images) == 0).all()
    value.sum().backward()
    assert reconstruction.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in metric.parameters())
    untrained = load_lpips("small_classifier", None, "losses.lpips_checkpoint", random_weights=True)
    assert untrained(*pair()).shape == (2,)
    with pytest.raises(UserError, match=r"needs losses.lpips_checkpoint, a file of python -m evaluation.train_class"):
        load_lpips("small_classifier", None, "losses.lpips_checkpoint")
