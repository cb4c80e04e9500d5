"""How much of a codebook a data set uses."""

import torch
from torch import Tensor


class CodebookUsage:
    """Counts codes over a data set."""

    def __init__(self, codebook_size: int, device: torch.device | str = "cpu"):
        self.counts = torch.zeros(codebook_size, dtype=torch.int64, device=device)

    def add(self, codes: Tensor) -> None:
        self.counts += torch.bincount(codes.flatten(), minlength=len(self.counts))

    def usage(self) -> float:
        """Share of the codebook that occurs, in [0, 1]."""
        return float((self.counts > 0).float().mean())

    def perplexity(self) -> float:
        """exp(entropy): the number of equally frequent codes with the same entropy."""
        p = self.counts.double() / self.counts.sum().clamp_min(1)
        return float(torch.exp(-(p * p.clamp_min(1e-12).log()).sum()))
