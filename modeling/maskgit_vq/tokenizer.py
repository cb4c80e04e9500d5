"""MaskGIT-VQ: the convolutional VQGAN of "MaskGIT: Masked Generative Image Transformer" (Chang et al.,
arXiv:2202.04200), as ported to PyTorch for RAR (Yu et al., arXiv:2411.00776)."""

import torch
from torch import Tensor, nn

from modeling.interfaces import TOKENIZERS
from modeling.layers.codebook import Codebook
from modeling.maskgit_vq.decoder import Decoder
from modeling.maskgit_vq.encoder import Encoder
from modeling.maskgit_vq.settings import MaskGITVQConfig


@TOKENIZERS.register("maskgit_vq", MaskGITVQConfig)
class MaskGITVQ(nn.Module):
    """A code for each place of a grid, in raster order."""

    optional_keys = ()
    variants = {}
    trainable = False

    def __init__(self, config: MaskGITVQConfig):
        super().__init__()
        self.config = config
        self.image_size = config.image_size
        self.layout = config.layout
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quantize = Codebook(config.codebook_size, config.token_size)

    @property
    def trunks(self) -> tuple[nn.Module, nn.Module]:
        return self.encoder, self.decoder

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """images: (B, 3, H, W) in [0, 1] -> codes (B, T) int64."""
        return self.quantize.assign(self.encoder(images))

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """codes: (B, T) int64 in [0, codebook_size) -> images (B, 3, H, W) in [0, 1]."""
        quantized = self.quantize.lookup(codes).squeeze(2).unflatten(-1, self.layout.grid)
        return self.decoder(quantized).clamp(0, 1)
