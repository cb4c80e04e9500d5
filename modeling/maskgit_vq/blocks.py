"""What encoder and decoder of MaskGIT-VQ are made of."""

import torch.nn.functional as F
from torch import Tensor, nn

NORM_GROUPS = 32
NORM_EPS = 1e-6


def group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(NORM_GROUPS, channels, NORM_EPS)


class ResidualBlock(nn.Module):
    """x + h with h = conv2(silu(norm2(conv1(silu(norm1(x)))))).

    Where the number of channels changes, the result is h + nin_shortcut(h) and x has no path around the
    convolutions. Published weights rely on this quirk.
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.norm1 = group_norm(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = group_norm(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.nin_shortcut = None
        if in_channels != out_channels:
            self.nin_shortcut = nn.Conv2d(out_channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, in_channels, H, W) -> (B, out_channels, H, W)."""
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (x if self.nin_shortcut is None else self.nin_shortcut(h))


def two_blocks(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(ResidualBlock(in_channels, out_channels), ResidualBlock(out_channels, out_channels))


class Level(nn.Module):
    """Two residual blocks at one resolution."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.block = two_blocks(in_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, in_channels, H, W) -> (B, out_channels, H, W)."""
        return self.block(x)
