"""Gaussian latents, for the tokenizers without codes."""

from typing import NamedTuple

import torch
from torch import Tensor

from modeling.layers.precision import at_least_float32

MIN_LOGVAR, MAX_LOGVAR = -30.0, 20.0


class Gaussian(NamedTuple):
    """A distribution of latents with independent numbers."""

    mean: Tensor  # (B, C, 1, T)
    logvar: Tensor  # of the same shape, in [MIN_LOGVAR, MAX_LOGVAR]

    @classmethod
    def from_channels(cls, z: Tensor) -> "Gaussian":
        """z: (B, 2 C, 1, T), means and then logarithms of the variances; float32 whatever the autocast dtype."""
        mean, logvar = at_least_float32(z).chunk(2, dim=1)
        return cls(mean, logvar.clamp(MIN_LOGVAR, MAX_LOGVAR))

    def sample(self, noise: Tensor | None = None) -> Tensor:
        """mean + std * noise, (B, C, 1, T). noise: standard normal numbers of that shape; None: drawn here."""
        noise = torch.randn_like(self.mean) if noise is None else noise
        return self.mean + torch.exp(0.5 * self.logvar) * noise

    def kl(self) -> Tensor:
        """KL divergence from the standard normal distribution, (B, T) in nats."""
        terms = self.mean.square() + self.logvar.exp() - 1 - self.logvar
        return 0.5 * terms.sum(dim=1).squeeze(1)
