"""Autoregressive decoding: one code at a time. The codes of an image do not depend on the batch."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from modeling.interfaces import AutoregressiveGenerator
from sampling.cpu import compile_step, pack_linears
from sampling.decoding import DECODERS, check_batch
from sampling.noise import draw, keep_likely
from sampling.settings import SamplingSettings


@DECODERS.register("autoregressive", SamplingSettings)
class AutoregressiveDecoder:
    """Decoder of an `AutoregressiveGenerator`.

    With `fixed_rows` on a GPU, the work of each position, from the embedding to the draw, is recorded as a
    CUDA graph at the first batch, and launched with one call from then on. One graph per position, rather
    than one for all, attends only to the cached positions and needs no mask.
    """

    def __init__(
        self,
        generator: AutoregressiveGenerator,
        settings: SamplingSettings,
        *,
        fixed_rows: int | None = None,
        forward: Callable | None = None,
    ):
        self.generator = generator
        self.settings = settings
        self.fixed_rows = fixed_rows
        self.forward = forward or generator
        self.num_codes = generator.layout.num_codes
        self.noise_shape = (self.num_codes,)
        self.scales = settings.scales(self.num_codes)
        self._recorded: _Batch | None = None
        self._graphs: list[torch.cuda.CUDAGraph] = []
        self._busy = False

    @staticmethod
    def prepare(
        generator: AutoregressiveGenerator, settings: SamplingSettings, batch_size: int, compile: bool
    ) -> Callable:
        """On a CPU a whole position is compiled, or weights are packed; on a GPU the parts between attention are
        compiled."""
        on_cpu = next(generator.parameters()).device.type == "cpu"
        if on_cpu and compile:
            return compile_step(generator)
        if on_cpu:
            guided = settings.scales(generator.layout.num_codes) is not None
            pack_linears(generator, 2 * batch_size if guided else batch_size)
        elif compile:
            for module, name in generator.compiled_when_decoding():
                setattr(module, name, torch.compile(getattr(module, name), dynamic=False))
        return generator

    def __call__(self, class_ids: Tensor, noise: Tensor) -> Tensor:
        """Codes (B, T) int64 in the tokenizer's order. Arguments and errors: see `_decode`."""
        *_, codes = self._decode(class_ids, noise)
        return self.generator.in_tokenizer_order(codes.clone())  # clone: the next batch reuses this buffer

    def stream(self, class_ids: Tensor, noise: Tensor) -> Iterator[Tensor]:
        """After each position the codes so far, (B, T) int64 in the tokenizer's order, -1 where none is drawn yet."""
        for codes in self._decode(class_ids, noise):
            yield self.generator.in_tokenizer_order(codes.clone())

    @torch.no_grad()  # not inference_mode: sharded weights are gathered into tensors that training uses too
    def _decode(self, class_ids: Tensor, noise: Tensor) -> Iterator[Tensor]:
        """Draw position after position; yields a view of the codes (B, T) in the order drawn.

        class_ids: (B,) in [0, num_classes); noise: (B, T) in [0, 1).
        Raises ValueError for other class ids and for too many rows. Raises RuntimeError if graphs are used and
        another batch in the same buffers is not finished.
        """
        check_batch(self.generator, class_ids, self.fixed_rows)
        rows, noise = len(class_ids), noise.to(class_ids.device)
        if self.fixed_rows is not None and class_ids.is_cuda:
            yield from self._replay(class_ids, noise)
            return
        batch = _Batch(self, rows if self.fixed_rows is None else self.fixed_rows, class_ids.device)
        batch.fill(class_ids, noise)
        for position in range(self.num_codes):
            batch.draw(position)
            yield batch.codes[:rows]

    def _replay(self, class_ids: Tensor, noise: Tensor) -> Iterator[Tensor]:
        if self._busy:
            raise RuntimeError("another batch of this decoder is not finished: finish or close it first")
        self._busy = True
        try:
            with torch.cuda.device(class_ids.device):  # streams belong to the current device
                if not self._graphs:
                    self._record(class_ids.device)
            self._recorded.fill(class_ids, noise)
            for graph in self._graphs:
                with torch.cuda.device(class_ids.device):
                    graph.replay()
                yield self._recorded.codes[: len(class_ids)]
        finally:
            self._busy = False

    def _record(self, device: torch.device) -> None:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # compilation and the choice of algorithms cannot be recorded
            batch = _Batch(self, self.fixed_rows, device)
            for position in range(self.num_codes):
                batch.draw(position)
        torch.cuda.current_stream().wait_stream(side)
        del batch
        batch, graphs, pool = _Batch(self, self.fixed_rows, device), [], torch.cuda.graph_pool_handle()
        for position in range(self.num_codes):
            graphs.append(torch.cuda.CUDAGraph())
            with torch.cuda.graph(graphs[-1], pool=pool):
                batch.draw(position)
        self._recorded, self._graphs = batch, graphs  # set together: neither is set if recording runs out of memory


class _Batch:
    """Buffers of one batch: classes, noise, cache, codes."""

    def __init__(self, decoder: AutoregressiveDecoder, rows: int, device: torch.device):
        generator = decoder.generator
        self.decoder, self.rows = decoder, rows
        self.noise = torch.zeros(rows, decoder.num_codes, dtype=torch.float64, device=device)
        # With guidance the second half of the rows has "no class".
        self.class_ids = torch.zeros(rows, dtype=torch.int64, device=device)
        if decoder.scales:
            self.class_ids = torch.cat([self.class_ids, torch.full_like(self.class_ids, generator.num_classes)])
        self.codes = torch.full((rows, decoder.num_codes), -1, device=device)
        self.cache = generator.new_cache(self.class_ids)

    def fill(self, class_ids: Tensor, noise: Tensor) -> None:
        """Start another batch in the same buffers, because recorded graphs refer to them."""
        self.class_ids[: len(class_ids)] = class_ids
        self.noise[: len(noise)] = noise
        self.codes.fill_(-1)

    def draw(self, position: int) -> None:
        """Draw codes[:, position]; nothing here waits for the device."""
        settings, scales = self.decoder.settings, self.decoder.scales
        last = self.codes[:, max(position - 1, 0) : position]  # (rows, 0) at first
        last = torch.cat([last, last]) if scales else last
        logits = self.decoder.forward(last, self.class_ids, self.cache)[:, -1].float()
        if scales:
            conditional, unconditional = logits.split(self.rows)
            logits = unconditional + scales[position] * (conditional - unconditional)
        if settings.temperature == 0:
            self.codes[:, position] = logits.argmax(-1)
            return
        logits = keep_likely(logits / settings.temperature, settings.top_k, settings.top_p)
        self.codes[:, position] = draw(logits, self.noise[:, position])
