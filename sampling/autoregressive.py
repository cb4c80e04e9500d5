"""Autoregressive decoding: one code at a time. The codes of an image do not depend on the batch."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from modeling.interfaces import AutoregressiveGenerator
from modeling.layers.decode_attention import DecodeAttention, decode_attention
from modeling.layers.kv_cache import KeyValueCache
from sampling.completion import check_kept
from sampling.cpu import compile_step, pack_linears
from sampling.cuda_graphs import RecordedFunction
from sampling.decoding import DECODERS, DRAW_BYTES, check_batch
from sampling.device_position import DevicePositionCache
from sampling.noise import draw, keep_likely
from sampling.settings import SamplingSettings
from sampling.soft_guidance import SoftGuidance


@DECODERS.register("autoregressive", SamplingSettings)
class AutoregressiveDecoder:
    """Decoder of an `AutoregressiveGenerator`.

    With `fixed_rows` on a GPU, the work of a position, from the embedding to the draw, is recorded as one CUDA graph
    at the first batch. All positions but the first are then launched with one call each.
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
        self.order = generator.in_tokenizer_order(torch.arange(self.num_codes)[None])[0].argsort()
        self.scales = settings.scales(self.num_codes)
        self._recorded: _SteppedBatch | None = None
        self._launch: RecordedFunction | None = None
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

    @staticmethod
    def bytes_per_image(generator: AutoregressiveGenerator, settings: SamplingSettings, bytes_per_number: int) -> int:
        """Mostly keys and values, for guidance twice."""
        rows = 1 if settings.scales(generator.layout.num_codes) is None else 2
        cache = generator.new_cache(torch.zeros(1, dtype=torch.int64), settings.cache_precision)
        cached = sum(min(t.itemsize, bytes_per_number) * t.numel() for t in (cache.keys, cache.values))
        return rows * (cached + generator.layout.codebook_size * DRAW_BYTES)

    def __call__(self, class_ids: Tensor, noise: Tensor, kept: Tensor | None = None) -> Tensor:
        """Codes (B, T) int64 in the tokenizer's order. Arguments and errors: see `_decode`."""
        *_, codes = self._decode(class_ids, noise, kept)
        return self.generator.in_tokenizer_order(codes.clone())  # clone: the next batch reuses this buffer

    def stream(self, class_ids: Tensor, noise: Tensor, kept: Tensor | None = None) -> Iterator[Tensor]:
        """After each position the codes so far, (B, T) int64 in the tokenizer's order, -1 where none is drawn yet."""
        for codes in self._decode(class_ids, noise, kept):
            yield self.generator.in_tokenizer_order(codes.clone())

    @torch.no_grad()  # not inference_mode: sharded weights are gathered into tensors that training uses too
    def _decode(self, class_ids: Tensor, noise: Tensor, kept: Tensor | None) -> Iterator[Tensor]:
        """Draw position after position; yields a view of the codes (B, T) in the order drawn.

        class_ids: (B,) in [0, num_classes); noise: (B, T) in [0, 1). kept: (B, T) in the tokenizer's order, codes
        that stay, and -1 where one is drawn; the codes that stay must be those that come first in the order drawn.
        Raises ValueError for other class ids and kept codes, and for too many rows. Raises RuntimeError if graphs
        are used and another batch in the same buffers is not finished.
        """
        check_batch(self.generator, class_ids, self.fixed_rows)
        rows, noise = len(class_ids), noise.to(class_ids.device)
        first = class_ids.new_empty(rows, 0) if kept is None else self._first_codes(class_ids, kept)
        if first.shape[1] == self.num_codes:
            yield first
            return
        if self.fixed_rows is not None and class_ids.is_cuda:
            yield from self._replay(class_ids, noise, first)
            return
        batch = _Batch(self, rows if self.fixed_rows is None else self.fixed_rows, class_ids.device)
        batch.fill(class_ids, noise, first)
        for position in range(first.shape[1], self.num_codes):
            batch.draw(position)
            yield batch.codes[:rows]

    def _first_codes(self, class_ids: Tensor, kept: Tensor) -> Tensor:
        """The kept codes (B, k) in the order drawn."""
        check_kept(self.generator, class_ids, kept)
        kept = kept.to(class_ids.device)[:, self.order.to(class_ids.device)]
        count = int((kept[0] >= 0).sum())
        if (kept[:, :count] < 0).any() or (kept[:, count:] >= 0).any():
            raise ValueError("codes are drawn in an order: only the first ones can be kept, equally many of each image")
        return kept[:, :count]

    def _replay(self, class_ids: Tensor, noise: Tensor, first: Tensor) -> Iterator[Tensor]:
        if self._busy:
            raise RuntimeError("another batch of this decoder is not finished: finish or close it first")
        self._busy = True
        try:
            if self._recorded is None:
                self._recorded = _SteppedBatch(self, self.fixed_rows, class_ids.device)
                self._launch = RecordedFunction(self._recorded.step, class_ids.device)
            yield from self._recorded.run(class_ids, noise, self._launch, first)
        finally:
            self._busy = False


class _Batch:
    """Buffers of one batch: classes, noise, cache, codes."""

    def __init__(self, decoder: AutoregressiveDecoder, rows: int, device: torch.device):
        # Not the decoder: it may keep this batch, and a reference cycle would keep gigabytes.
        generator, scales = decoder.generator, decoder.scales
        self.generator, self.forward, self.settings, self.rows = generator, decoder.forward, decoder.settings, rows
        self.noise = torch.zeros(rows, decoder.num_codes, dtype=torch.float64, device=device)
        self.scales = None if scales is None else torch.tensor(scales, device=device)
        # With guidance the second half of the rows has "no class".
        self.class_ids = torch.zeros(rows, dtype=torch.int64, device=device)
        if scales:
            self.class_ids = torch.cat([self.class_ids, torch.full_like(self.class_ids, generator.num_classes)])
        self.codes = torch.full((rows, decoder.num_codes), -1, device=device)
        self.next = torch.zeros(1, dtype=torch.int64, device=device)  # the position of the code that is drawn next
        self.cache = generator.new_cache(self.class_ids, decoder.settings.cache_precision)
        self.soft = None
        if scales and decoder.settings.soft_guidance:
            positions = self.cache.keys.shape[3]
            self.soft = SoftGuidance(rows, decoder.num_codes, generator.num_special, positions, device)
            self.cache.value_weights = self.soft.value_weights

    def fill(self, class_ids: Tensor, noise: Tensor, first: Tensor) -> None:
        """Start another batch in the same buffers, because a recorded graph refers to them.

        first: (B, k), codes that stay. All but the last, which `draw` feeds, enter the cache.
        """
        self.class_ids[: len(class_ids)] = class_ids
        self.noise[: len(noise)] = noise
        self.codes.fill_(-1)
        self.cache.length = 0
        if count := first.shape[1]:
            self.codes[:, :count] = 0  # of rows that only fill the batch
            self.codes[: len(first), :count] = first
            self._prefill(self.codes[:, : count - 1])

    def _prefill(self, codes: Tensor) -> None:
        """Fill the cache with codes (B, n) and what precedes them, in one pass."""
        codes = codes if self.scales is None else torch.cat([codes, codes])
        with torch.compiler.set_stance("force_eager"):  # not compiled again for every number of codes
            logits = self.forward(codes, self.class_ids, self.cache)
            if self.soft:  # again, because what the unconditional rows compute depends on all confidences
                self.soft.add(slice(0, logits.shape[1]), logits[: self.rows].float())
                self.cache.value_weights = self.soft.weights_of_queries(self.cache.length)
                self.cache.length = 0
                self.forward(codes, self.class_ids, self.cache)
                self.cache.value_weights = self.soft.value_weights

    def draw(self, position: int) -> None:
        """Draw codes[:, position] after the code before it."""
        self.next.fill_(position)
        self._draw_after(self.codes[:, max(position - 1, 0) : position], self.cache)  # (rows, 0) at first

    def _draw_after(self, last: Tensor, cache: KeyValueCache | DevicePositionCache) -> None:
        """Draw the code after those of `last` (rows, n), which continue the cache, and count it in `next`.

        Nothing here waits for the device.
        """
        settings = self.settings
        last = last if self.scales is None else torch.cat([last, last])
        if self.soft:
            self.soft.weigh(self.next)
        logits = self.forward(last, self.class_ids, cache)[:, -1].float()
        if self.scales is not None:
            conditional, unconditional = logits.split(self.rows)
            if self.soft:
                self.soft.add(self.next, conditional[:, None])
            logits = unconditional + self.scales[self.next] * (conditional - unconditional)
        if settings.temperature == 0:
            drawn = logits.argmax(-1)
        else:
            logits = keep_likely(logits / settings.temperature, settings.top_k, settings.top_p)
            drawn = draw(logits, self.noise.index_select(1, self.next)[:, 0])
        self.codes.index_copy_(1, self.next, drawn[:, None])
        self.next += 1


class _SteppedBatch(_Batch):
    """A batch with the same work for every position but the first, which can be recorded."""

    def __init__(
        self,
        decoder: AutoregressiveDecoder,
        rows: int,
        device: torch.device,
        attention: DecodeAttention | None = None,
    ):
        """attention: by default the fastest for the device."""
        super().__init__(decoder, rows, device)
        attention = attention or decode_attention(self.cache)
        self.step_cache = DevicePositionCache(self.cache, attention)

    def step(self) -> None:
        """Draw the next code after the one before it; the host says nothing about the position."""
        self._draw_after(self.codes.index_select(1, self.next - 1), self.step_cache)
        self.step_cache.move()

    def run(
        self, class_ids: Tensor, noise: Tensor, launch: Callable[[], None], first: Tensor | None = None
    ) -> Iterator[Tensor]:
        """Draw all codes but the `first` (B, k), k < T, which stay; yields a view of all codes after each position.

        launch: runs `step`, which may be recorded.
        """
        first = class_ids.new_empty(len(class_ids), 0) if first is None else first
        self.fill(class_ids, noise, first)
        with torch.compiler.set_stance("force_eager"):  # it has other shapes than the step
            self.draw(first.shape[1])
        self.step_cache.start()
        yield self.codes[: len(class_ids)]
        for _ in range(first.shape[1] + 1, self.codes.shape[1]):
            self.generator.prepare_position(self.class_ids, self.cache)
            self.step_cache.take_inputs()
            launch()
            self.cache.advance(1)
            yield self.codes[: len(class_ids)]
