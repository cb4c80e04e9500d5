"""How well a tokenizer reconstructs, and how evenly it uses its codebook."""

import torch
from torch import Tensor


def psnr(images: Tensor, reconstruction: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image in dB: 10 log10(1 / MSE).

    Both (B, 3, H, W) in [0, 1]. Returns (B,).
    """
    mse = (images.float() - reconstruction.float()).square().flatten(1).mean(1)
    return -10 * mse.clamp_min(1e-10).log10()


class CodebookUsage:
    """Counts codes over a data set."""

    def __init__(self, codebook_size: int, device: torch.device | str = "cpu"):
        self.counts = torch.zeros(codebook_size, dtype=torch.int64, device=device)

    def add(self, codes: Tensor) -> None:
        self.counts += torch.bincount(codes.flatten(), minlength=len(self.counts))

    def usage(self) -> float:
        """Share of the codebook that was used at all."""
        return float((self.counts > 0).float().mean())

    def perplexity(self) -> float:
        """exp(entropy): how many equally frequent codes would be as uncertain."""
        p = self.counts.double() / self.counts.sum().clamp_min(1)
        return float(torch.exp(-(p * p.clamp_min(1e-12).log()).sum()))
