"""MaskGIT-VQ's encoder."""

import torch.nn.functional as F
from torch import Tensor, nn

from modeling.maskgit_vq.blocks import Level, group_norm, two_blocks
from modeling.maskgit_vq.settings import MaskGITVQConfig


class Encoder(nn.Module):
    """Convolutions without attention; each level but the last halves the resolution."""

    def __init__(self, config: MaskGITVQConfig):
        super().__init__()
        channels = config.level_channels
        self.conv_in = nn.Conv2d(3, config.channels, 3, padding=1, bias=False)
        self.down = nn.ModuleList(map(Level, [config.channels, *channels], channels))
        self.mid = two_blocks(channels[-1], channels[-1])
        self.norm_out = group_norm(channels[-1])
        self.conv_out = nn.Conv2d(channels[-1], config.token_size, 1)

    def forward(self, images: Tensor) -> Tensor:
        """images: (B, 3, H, W) in [0, 1] -> latents (B, token_size, rows, columns)."""
        x = self.down[0](self.conv_in(images))
        for level in self.down[1:]:
            x = level(F.avg_pool2d(x, 2))
        return self.conv_out(F.silu(self.norm_out(self.mid(x))))
