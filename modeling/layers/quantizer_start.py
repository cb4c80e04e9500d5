"""How a tokenizer's training begins: with little quantization, while its decoder draws little yet.

At first the latents differ between positions, and hardly between images. Quantized, they lose what the images differ
in, and the quantizer's loss pulls them onto the codebook: the decoder learns the mean colour of all images, and nothing
asks the encoder for more. Quantization that grows with what the decoder draws leaves that place at once.
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn

from utils.ranks import several_ranks

FULL_AT = 0.5  # explained variance from which quantization is full
DECAY = 0.9  # of the average of the explained variance


def variance_sums(images: Tensor, reconstruction: Tensor) -> Tensor:
    """images, reconstruction: (B, 3, H, W) -> float64 (6,): sums over pixels and images of the three channels, of all
    squares and of all squared errors, and the number of pixels. They can be added up over batches."""
    images, reconstruction = images.detach().double(), reconstruction.detach().double()
    squares, errors = images.square().sum(), (reconstruction - images).square().sum()
    pixels = images.new_tensor(images[:, 0].numel())
    return torch.cat([images.sum((0, 2, 3)), torch.stack([squares, errors, pixels])])


def explained_variance(sums: Tensor) -> Tensor:
    """1 - error / variance around the mean colour, from `variance_sums`. 0: every image is drawn as the mean colour of
    all; 1: all images are drawn as they are; below 0: worse than the mean colour. 0 if there is no variance."""
    colour, squares, errors, pixels = sums[:3], sums[3], sums[4], sums[5]
    variance = squares - colour.square().sum() / pixels
    return torch.where(variance > 0, 1 - errors / variance.clamp(min=torch.finfo(sums.dtype).tiny), 0.0)


class QuantizerStart(nn.Module):
    """The strength of quantization in [0, 1], the same on all ranks.

    It follows the explained variance up to FULL_AT, never falls, and is 1 after `steps` updates at the latest.
    """

    def __init__(self, steps: int):
        super().__init__()
        self.steps = steps
        # On the CPU even if the model is built on the meta device, because exported files lack them.
        self.register_buffer("strength", torch.zeros((), device="cpu"))
        self.register_buffer("average", torch.zeros((), dtype=torch.float64, device="cpu"))
        self._collected: list[Tensor] = []

    def collect(self, images: Tensor, reconstruction: Tensor) -> None:
        """The micro-batches until `update` count as one batch."""
        self._collected.append(variance_sums(images, reconstruction))

    def discard_collected(self) -> None:
        self._collected.clear()

    @torch.no_grad()
    def update(self) -> None:
        """Every rank calls it once a step."""
        if not self._collected:
            return
        sums = torch.stack(self._collected).sum(0)
        self._collected.clear()
        if several_ranks():
            dist.all_reduce(sums)
        self.average.lerp_(explained_variance(sums), 1 - DECAY)
        follows = (self.average / FULL_AT).type_as(self.strength)
        self.strength.copy_(torch.maximum(self.strength + 1 / self.steps, follows).clamp(max=1))
