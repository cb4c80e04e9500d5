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
        self.dtype = dtype
        position_bytes = self.keys[:, :, :, 0].numel() * BLOCK_MODULATIONS * dtype.itemsize
        runs = -(-length // max(MODULATION_BYTES // position_bytes, 1))
        self._allocate(-(-length // runs))

    def _allocate(self, run_length: int) -> None:
        layers, rows, heads, _, head_width = self.keys.shape
        self.modulations = self.keys.new_empty(
            layers, rows, run_length, BLOCK_MODULATIONS * heads * head_width, dtype=self.dtype
        )
        self.run = range(0)  # the positions that have their modulations

    def position_inputs(self) -> tuple[Tensor, ...] | None:
        """Modulations of the next position, (layers, rows, 1, 6 width); None if it starts a run."""
        if self.length not in self.run:
            return None
        place = self.length - self.run.start
        return (self.modulations[:, :, place : place + 1],)

    def start_run(self, positions: int) -> Tensor:
        """Room (layers, rows, n, 6 width) for modulations of the n positions after the filled ones, n >= positions."""
        if positions > self.modulations.shape[2]:
            self._allocate(positions)
        end = min(self.length + self.modulations.shape[2], self.keys.shape[3])
        self.run = range(self.length, end)
        return self.modulations[:, :, : len(self.run)]
