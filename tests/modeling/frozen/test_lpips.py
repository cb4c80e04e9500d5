"""LPIPS against the package `lpips`."""

import torch

from modeling.frozen.lpips import LPIPS


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
