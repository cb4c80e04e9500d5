"""SoftCFG (Xu et al., arXiv:2510.00996): guidance that also takes from the unconditional logits what the codes say.

Without a class the model still sees the codes, and they show the class: guidance fades along the codes. SoftCFG makes
the unconditional rows attend less to the values of codes that were drawn with confidence.
"""

import torch
from torch import Tensor

TINY = 1e-30


class SoftGuidance:
    """The confidence of each code of a batch, and the factors of attention weights that follow from it.

    p_i, the confidence of code i, is the largest probability of its conditional distribution, before guidance and
    temperature. While the cache holds n codes, those before the one that is fed, the factor of code i is
    1 - p_i / (p_0 + ... + p_(n-1)). The factors' distances to 1 add up to 1 at every position.
    """

    def __init__(self, rows: int, num_codes: int, num_special: int, positions: int, device: torch.device):
        """rows: images; num_special: see `AutoregressiveGenerator`; positions: those of the cache."""
        self.num_special = num_special
        self.confidence = torch.zeros(rows, num_codes, device=device)
        self.value_weights = torch.ones(2 * rows, positions, device=device)
        """For `KeyValueCache.value_weights`: conditional rows first, which keep the factor 1."""

    def add(self, places: slice | Tensor, logits: Tensor) -> None:
        """Remember how confident the codes at n places are; logits: (rows, n, K), conditional."""
        self.confidence[:, places] = (logits.amax(-1) - logits.logsumexp(-1)).exp()

    def weigh(self, position: int | Tensor) -> None:
        """Set `value_weights` for drawing the code at `position`, after that at position - 1 is fed."""
        factors = self._factors(self.confidence, position - 1)
        unconditional = self.value_weights[len(factors) :, self.num_special :]
        unconditional.copy_(factors[:, : unconditional.shape[1]])

    def weights_of_queries(self, positions: int) -> Tensor:
        """Factors (2 rows, positions, positions) for every query of the first positions of a cache, as if they had
        been filled one after another."""
        cached = torch.arange(positions, device=self.confidence.device) - self.num_special
        factors = self._factors(self.confidence[:, None], cached[:, None])
        weights = factors.new_ones(2 * len(factors), positions, positions)
        weights[len(factors) :, :, self.num_special :] = factors[:, :, : positions - self.num_special]
        return weights

    @staticmethod
    def _factors(confidence: Tensor, cached: int | Tensor) -> Tensor:
        """Factors of all codes while the cache holds the first `cached` ones; 1 for the others."""
        counted = confidence * (torch.arange(confidence.shape[-1], device=confidence.device) < cached)
        return 1 - counted / counted.sum(-1, keepdim=True).clamp(min=TINY)
