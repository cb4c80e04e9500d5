"""Keys, values and modulations while RAR draws codes."""

import torch
from torch import Tensor

from modeling.layers.kv_cache import KeyValueCache
from modeling.rar.block import BLOCK_MODULATIONS

# Room for modulations. With so many rows that a whole image's do not fit, a product over a few positions of
# all rows reads each weight often enough.
MODULATION_BYTES = 2**30


class ModulatedCache(KeyValueCache):
    """Also keeps the modulations of the blocks, which depend on class and position and not on codes.

    They are computed for a run of positions at once: a third of the blocks' weights is read once a run and not
    once a position. A row takes 6 * layers * width numbers a position: 442 kB for RAR-B, 114 MB for its 258
    positions, and 349 MB for those of RAR-XXL, in float32; half of that in bfloat16.
    """

    def __init__(
        self,
        num_layers: int,
        rows: int,
        num_heads: int,
        length: int,
        head_width: int,
        precision: str | None = None,
        *,
        dtype: torch.dtype,
        device: torch.device,
    ):
        super().__init__(num_layers, rows, num_heads, length, head_width, precision, dtype=dtype, device=device)
        position_bytes = self.keys[:, :, :, 0].numel() * BLOCK_MODULATIONS * dtype.itemsize
        runs = -(-length // max(MODULATION_BYTES // position_bytes, 1))
        width = BLOCK_MODULATIONS * num_heads * head_width
        self.modulations = self.keys.new_empty(num_layers, rows, -(-length // runs), width, dtype=dtype)
        self.run = range(0)  # the positions that have their modulations

    def position_inputs(self) -> tuple[Tensor, ...] | None:
        """Modulations of the next position, (layers, rows, 1, 6 width); None if it starts a run."""
        if self.length not in self.run:
            return None
        place = self.length - self.run.start
        return (self.modulations[:, :, place : place + 1],)

    def start_run(self, position: int) -> Tensor:
        """Room (layers, rows, n, 6 width) for modulations of the run of n positions with `position` in it.

        Runs begin at the same positions however the cache is filled: a run that has begun is whole.
        """
        longest = self.modulations.shape[2]
        start = position // longest * longest
        self.run = range(start, min(start + longest, self.keys.shape[3]))
        return self.modulations[:, :, : len(self.run)]
