"""What is between the product that makes queries, keys and values, and attention."""

from dataclasses import dataclass

from torch import Tensor

from modeling.layers.norms import LayerNorm, RMSNorm
from modeling.layers.rope import rotate


def split_heads(qkv: Tensor, head_width: int) -> tuple[Tensor, Tensor, Tensor]:
    """qkv: (B, L, 3 width), in the order q, k, v with the heads inside each -> three of (B, heads, L, head_width).

    They are views: memory stays in the order (B, L, heads, head_width), and so does the result of attention on a GPU.
    """
    q, k, v = qkv.unflatten(-1, (3, -1, head_width)).unbind(2)
    # Not permuted as one tensor: backward would copy the gradients of all three once more.
    return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)


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
