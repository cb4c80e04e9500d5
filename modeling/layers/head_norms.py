"""What happens to queries and keys between the product that makes them and attention."""

from dataclasses import dataclass

from torch import Tensor

from modeling.layers.norms import LayerNorm, RMSNorm
from modeling.layers.rope import rotate


@dataclass(frozen=True)
class HeadNorms:
    """A norm over each head's channels, then a rotation if there is a table.

    A cache gets it together with queries and keys, because one kernel can do both and attention
    (`modeling.layers.decode_kernel`).
    """

    q_norm: RMSNorm | LayerNorm
    k_norm: RMSNorm | LayerNorm
    rope: Tensor | None = None  # (L, 2, head_width), see `rotation_factors`

    def __call__(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """q, k: (B, heads, L, head_width). Returns the same shapes and dtype."""
        return self._finish(self.q_norm, q), self._finish(self.k_norm, k)

    def _finish(self, norm: RMSNorm | LayerNorm, x: Tensor) -> Tensor:
        normed = norm(x.transpose(1, 2))  # the order of memory
        return (normed if self.rope is None else rotate(normed, self.rope)).type_as(x).transpose(1, 2)
