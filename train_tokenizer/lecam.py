"""LeCam regularization of the discriminator (Tseng et al. 2021, arXiv:2104.03310)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LeCam(nn.Module):
    """Keeps the mean logits of real images near the running mean of the others, and the other way round."""

    def __init__(self, decay: float):
        super().__init__()
        self.decay = decay
        self.register_buffer("ema_real_logits_mean", torch.zeros(1))
        self.register_buffer("ema_fake_logits_mean", torch.zeros(1))

    def forward(self, real: Tensor, fake: Tensor) -> Tensor:
        """real, fake: mean logits over the images of all ranks, scalars. Returns a scalar."""
        too_real = F.relu(real - self.ema_fake_logits_mean).square()
        too_fake = F.relu(self.ema_real_logits_mean - fake).square()
        return (too_real + too_fake).squeeze()

    @torch.no_grad()
    def update(self, real: Tensor, fake: Tensor) -> None:
        """Move the running means; call it after the discriminator's update."""
        self.ema_real_logits_mean.lerp_(real.to(self.ema_real_logits_mean.dtype).view(1), 1 - self.decay)
        self.ema_fake_logits_mean.lerp_(fake.to(self.ema_fake_logits_mean.dtype).view(1), 1 - self.decay)
