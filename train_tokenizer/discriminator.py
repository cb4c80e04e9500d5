"""The patch discriminator of the adversarial phases."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modeling.layers.layout import for_convolutions

WIDTHS = (128, 128, 256, 512)
NUM_GROUPS = 32
SLOPE = 0.1
POOL_SIZE = 16


def same_padding(x: Tensor, kernel_size: int, stride: int = 1) -> Tensor:
    """Zero-pad (B, C, H, W) so that a convolution yields ceil(side / stride) pixels a side.

    Right and bottom get the larger half, as in TensorFlow's "SAME".
    """
    pads: list[int] = []
    for side in (x.shape[-1], x.shape[-2]):  # F.pad starts with the last dimension
        total = max((-(-side // stride) - 1) * stride + kernel_size - side, 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads)


class SameConv2d(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(same_padding(x, self.kernel_size[0]))


class Blur(nn.Module):
    """Binomial low-pass (1, 3, 3, 1) x (1, 3, 3, 1) on each channel, stride 2."""

    def __init__(self):
        super().__init__()
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
        kernel = torch.outer(taps, taps)
        self.register_buffer("kernel", (kernel / kernel.sum())[None, None])

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        kernel = self.kernel.expand(channels, 1, -1, -1).to(x.dtype)
        x = same_padding(x, kernel.shape[-1], stride=2)
        return F.conv2d(x, kernel, stride=2, groups=channels)


class Discriminator(nn.Module):
    """Convolutional patch discriminator, 1,909,889 parameters."""

    def __init__(self):
        super().__init__()
        self.block_in = nn.Sequential(SameConv2d(3, WIDTHS[0], 5), nn.LeakyReLU(SLOPE))
        self.blocks = nn.ModuleList(
            nn.Sequential(
                SameConv2d(in_width, out_width, 3),
                Blur(),
                nn.GroupNorm(NUM_GROUPS, out_width),
                nn.LeakyReLU(SLOPE),
            )
            for in_width, out_width in pairwise(WIDTHS)
        )
        self.pool = nn.AdaptiveMaxPool2d(POOL_SIZE)
        self.to_logits = nn.Sequential(
            SameConv2d(WIDTHS[-1], WIDTHS[-1], 1),
            nn.LeakyReLU(SLOPE),
            SameConv2d(WIDTHS[-1], 1, 5),
        )

    def forward(self, images: Tensor) -> Tensor:
        """images: (B, 3, H, W) in [0, 1] -> logits (B, 1, 16, 16)."""
        # Only images: convolutions follow them. The weights keep their layout, which the optimizer's state shares.
        x = self.block_in(for_convolutions(images))
        for block in self.blocks:
            x = block(x)
        return self.to_logits(self.pool(x))
