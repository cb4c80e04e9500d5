import torch

from utils.images import to_bytes


def test_bytes_are_rounded_for_reconstructions():
    x = torch.tensor([0.0, 0.5 / 255, 1.6 / 255, 1.0]).view(1, 1, 4).expand(3, 1, 4)
    assert to_bytes(x)[0, :, 0].tolist() == [0, 0, 1, 255]
    assert to_bytes(x, rounded=True)[0, :, 0].tolist() == [0, 1, 2, 255]
