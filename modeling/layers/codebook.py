"""The vectors of the codes, and which of them is nearest to a latent."""

import torch
from torch import Tensor, nn

from modeling.layers.precision import at_least_float32, full_float32


class Codebook(nn.Module):
    """A row for each code. Nearest means the smallest squared Euclidean distance, in float32 whatever the
    autocast dtype."""

    def __init__(self, codebook_size: int, token_size: int):
        super().__init__()
        self.embedding = nn.Embedding(codebook_size, token_size)

    @torch.no_grad()
    @torch.autocast("cuda", enabled=False)
    @torch.autocast("cpu", enabled=False)
    def assign(self, z: Tensor) -> Tensor:
        """z: (B, C, H, W) -> codes (B, H * W) int64, row by row. The codebook does not change."""
        rows = at_least_float32(z).permute(0, 2, 3, 1).reshape(-1, z.shape[1])
        return self.distances(rows).argmin(dim=1).view(z.shape[0], -1)

    def lookup(self, codes: Tensor) -> Tensor:
        """codes: (B, T) -> codebook vectors (B, C, 1, T)."""
        return self.embedding(codes).transpose(1, 2).unsqueeze(2)

    def distances(self, latents: Tensor) -> Tensor:
        """Squared distances of latents (n, C) to all rows, (n, K)."""
        rows = self.embedding.weight
        squares = latents.square().sum(1, keepdim=True) + rows.square().sum(1)
        with full_float32():  # differences of large numbers: TF32 would lose too many bits
            return torch.addmm(squares, latents, rows.t(), alpha=-2)
