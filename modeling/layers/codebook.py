"""The vectors of the codes, and which of them is nearest to a latent."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modeling.layers.precision import at_least_float32, full_float32


class Codebook(nn.Module):
    """A row for each code. Nearest means the smallest squared Euclidean distance, in float32 whatever the
    autocast dtype. With `l2_normalized` latents and rows are divided by their lengths wherever they are used."""

    def __init__(self, codebook_size: int, token_size: int, *, l2_normalized: bool = False):
        super().__init__()
        self.l2_normalized = l2_normalized
        self.embedding = nn.Embedding(codebook_size, token_size)

    @torch.no_grad()
    @torch.autocast("cuda", enabled=False)
    @torch.autocast("cpu", enabled=False)
    def assign(self, z: Tensor) -> Tensor:
        """z: (B, C, H, W) -> codes (B, H * W) int64, row by row. The codebook does not change."""
        rows = self.normalized(at_least_float32(z)).permute(0, 2, 3, 1).reshape(-1, z.shape[1])
        return self.distances(rows).argmin(dim=1).view(z.shape[0], -1)

    def lookup(self, codes: Tensor) -> Tensor:
        """codes: (B, T) -> codebook vectors (B, C, 1, T)."""
        return self.normalized(self.embedding(codes).transpose(1, 2).unsqueeze(2))

    def normalized(self, vectors: Tensor) -> Tensor:
        """Vectors along the second dimension, of length 1 with `l2_normalized`, else as they are."""
        return F.normalize(vectors, dim=1) if self.l2_normalized else vectors

    def distances(self, latents: Tensor) -> Tensor:
        """Squared distances of latents (n, C), as `normalized` returns them, to all rows, (n, K)."""
        rows = self.normalized(self.embedding.weight)
        squares = latents.square().sum(1, keepdim=True) + rows.square().sum(1)
        with full_float32():  # differences of large numbers: TF32 would lose too many bits
            return torch.addmm(squares, latents, rows.t(), alpha=-2)
