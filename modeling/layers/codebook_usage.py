"""How much of a codebook a data set uses."""

import math

import torch
from torch import Tensor


class CodebookUsage:
    """Counts codes over a data set, wherever in the image they are."""

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


class PositionUsage:
    """Counts codes over a data set, for each position by itself."""

    def __init__(self, num_codes: int, codebook_size: int):
        self.counts = torch.zeros(num_codes, codebook_size, dtype=torch.int64)

    def add(self, codes: Tensor) -> None:
        """codes: (..., T)."""
        cells = codes + torch.arange(len(self.counts)) * self.counts.shape[1]
        self.counts += torch.bincount(cells.flatten(), minlength=self.counts.numel()).view_as(self.counts)

    def overall(self) -> CodebookUsage:
        usage = CodebookUsage(self.counts.shape[1])
        usage.counts += self.counts.sum(0)
        return usage

    def usage(self) -> Tensor:
        """Share of the codebook that occurs at each position: (T,) in [0, 1]."""
        return (self.counts > 0).double().mean(1)

    def entropy(self) -> Tensor:
        """Entropy of the codes at each position in bits: (T,) in [0, log2 K]."""
        p = self.counts / self.counts.sum(1, keepdim=True).clamp_min(1).double()
        return -torch.special.xlogy(p, p).sum(1).clamp_max(0) / math.log(2)
