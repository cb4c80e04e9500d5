"""Vector quantization, and the codebook clustering that keeps every code in use."""

import torch
import torch.distributed as dist
from torch import Tensor

from modeling.layers.codebook import Codebook
from modeling.layers.precision import at_least_float32
from utils.ranks import several_ranks

COMMITMENT_COST = 0.25
USAGE_DECAY = 0.99
# Sharpness of the switch between "used, stays" and "dead, jumps to a live latent" (CVQ-VAE).
ANCHOR_SHARPNESS = 10.0
ANCHOR_EPSILON = 1e-3
LIVE_SHARE = 0.1  # a code counts as used from this share of the average usage


class VectorQuantizer(Codebook):
    """A codebook that is trained; float32 whatever the autocast dtype.

    With `clustering`, training-mode forwards also collect what the codebook update of "Online
    Clustered Codebook" (Zheng and Vedaldi, 2023, arXiv:2307.15139) needs. `update_codebook` updates
    once per step: the micro-batches of an accumulated step count as one batch, and a skipped step
    leaves the codebook unchanged.
    """

    def __init__(
        self,
        codebook_size: int,
        token_size: int,
        *,
        clustering: bool = False,
        l2_normalized: bool = False,
        commitment_cost: float = COMMITMENT_COST,
    ):
        super().__init__(codebook_size, token_size, l2_normalized=l2_normalized)
        self.codebook_size = codebook_size
        self.commitment_cost = commitment_cost
        self.clustering = clustering
        self._collected: list[tuple[Tensor, Tensor, Tensor]] = []
        # On the CPU even if the model is built on the meta device, because some files lack it.
        self.register_buffer("embed_prob", torch.zeros(codebook_size, device="cpu"))

    @torch.autocast("cuda", enabled=False)
    @torch.autocast("cpu", enabled=False)
    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Quantize.

        z: (B, C, 1, T).
        Returns quantized (B, C, 1, T) with the straight-through gradient, the mean loss
        commitment_cost (sg[q] - z)^2 + (q - sg[z])^2, and codes (B, T) int64. With `l2_normalized`,
        z and q are the normalized ones in all of these, and gradients pass through the normalization.
        """
        z = self.normalized(at_least_float32(z))
        rows = z.permute(0, 2, 3, 1)
        with torch.no_grad():
            distances = self.distances(rows.reshape(-1, rows.shape[-1]))
            codes = distances.argmin(dim=1)
        quantized = self.lookup(codes.view(z.shape[0], -1))
        loss = self.commitment_cost * (quantized.detach() - z).square().mean()
        loss = loss + (quantized - z.detach()).square().mean()
        if self.training and self.clustering:
            self._collect(rows.detach().reshape(-1, rows.shape[-1]), codes, distances)
        quantized = z + (quantized - z).detach()
        return quantized, loss, codes.view(z.shape[0], -1)

    def _collect(self, latents: Tensor, codes: Tensor, distances: Tensor) -> None:
        """Keep the usage counts (K,) and each code's nearest latent of this batch.

        latents: (n, C), codes: (n,), distances: (n, K).
        """
        nearest, index = distances.min(dim=0)
        # Not bincount: it makes the host wait for the GPU, to learn the largest code.
        counts = codes.new_zeros(self.codebook_size).scatter_add_(0, codes, torch.ones_like(codes))
        self._collected.append((counts, nearest, latents[index]))

    def recent_usage(self) -> Tensor:
        """Share of the codes that clustering has seen at least a tenth as often as the average code."""
        return (self.embed_prob * self.codebook_size > LIVE_SHARE).float().mean()

    def discard_collected(self) -> None:
        """Forget the forwards since the last `update_codebook`."""
        self._collected.clear()

    @torch.no_grad()
    def update_codebook(self) -> None:
        """One clustering update from the latents of all forwards since the last update, on all ranks.

        Every rank calls it, after the backward passes and before the optimizer's update. All ranks get
        the same codebook and usage bit for bit, because they reduce the same numbers in the same order.
        Each rank sends only the nearest latent of every code, K * (C + 1) numbers; the result equals
        that of sending all latents.
        """
        if not self._collected:
            return
        counts, nearest, anchors = (torch.stack(parts) for parts in zip(*self._collected, strict=True))
        self._collected.clear()
        counts = counts.sum(0)
        nearest, anchors = _reduce_nearest(nearest, anchors)
        if several_ranks():
            dist.all_reduce(counts)
            all_nearest = [torch.empty_like(nearest) for _ in range(dist.get_world_size())]
            all_anchors = [torch.empty_like(anchors) for _ in range(dist.get_world_size())]
            dist.all_gather(all_nearest, nearest)
            dist.all_gather(all_anchors, anchors.contiguous())
            _, anchors = _reduce_nearest(torch.stack(all_nearest), torch.stack(all_anchors))
        share = counts.to(self.embed_prob.dtype) / counts.sum()
        self.embed_prob.mul_(USAGE_DECAY).add_(share, alpha=1 - USAGE_DECAY)
        exponent = -self.embed_prob * self.codebook_size * ANCHOR_SHARPNESS / (1 - USAGE_DECAY)
        weight = torch.exp(exponent - ANCHOR_EPSILON).unsqueeze(1)
        self.embedding.weight.mul_(1 - weight).add_(anchors * weight)


def _reduce_nearest(nearest: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
    """nearest (m, K), anchors (m, K, C) of m batches -> (K,), (K, C) of all of them."""
    nearest, owner = nearest.min(dim=0)
    return nearest, anchors[owner, torch.arange(len(owner), device=owner.device)]
