"""MaskGIT-VQ's decoder."""

import torch.nn.functional as F
from torch import Tensor, nn

from modeling.layers.precision import at_least_float32, autocast
from modeling.maskgit_vq.blocks import Level, group_norm, two_blocks
from modeling.maskgit_vq.settings import MaskGITVQConfig


class UpLevel(Level):
    """A level that doubles the resolution at its end."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(in_channels, out_channels)
        self.upsample_conv = nn.Conv2d(out_channels, out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, in_channels, H, W) -> (B, out_channels, 2 H, 2 W)."""
        return self.upsample_conv(F.interpolate(self.block(x), scale_factor=2.0, mode="nearest"))


class Decoder(nn.Module):
    """The encoder's levels in the opposite order; each level but the last one to run doubles the resolution."""

    def __init__(self, config: MaskGITVQConfig):
        super().__init__()
        channels = config.level_channels
        self.conv_in = nn.Conv2d(config.token_size, channels[-1], 3, padding=1)
        self.mid = two_blocks(channels[-1], channels[-1])
        # Stored by level, that of the pixels first.
        above = [*channels[1:], channels[-1]]
        self.up = nn.ModuleList([Level(above[0], channels[0]), *map(UpLevel, above[1:], channels[1:])])
        self.norm_out = group_norm(channels[0])
        self.conv_out = nn.Conv2d(channels[0], 3, 3, padding=1)

    def forward(self, quantized: Tensor) -> Tensor:
        """quantized: (B, token_size, rows, columns), codebook vectors or mixtures of them.

        Returns images (B, 3, H, W), for values in [0, 1] but not clamped to them.
        """
        x = self.mid(self.conv_in(quantized))
        for level in reversed(self.up):
            x = level(x)
        x = F.silu(self.norm_out(x))
        with autocast(x.device, "fp32"):  # bfloat16 would round pixels to 1/256
            return self.conv_out(at_least_float32(x))
