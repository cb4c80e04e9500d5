"""Drawing codes from a generator, the same codes for the same image whatever the batch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from modeling.interfaces import Generator
from sampling.guidance import SCHEDULES, guidance_scale

# Not cuDNN's attention, which compiles a kernel for every number of cached positions.
ATTENTION = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


@dataclass(frozen=True)
class SamplingSettings:
    """How codes are drawn from logits. Raises ValueError for values out of range."""

    guidance_scale: float = 0.0  # 0 means no guidance, as 1 does
    guidance_scale_pow: float = 1.0
    guidance_schedule: str = "power_cosine"
    temperature: float = 1.0  # 0: the most likely code
    top_k: int | None = None  # draw from this many most likely codes
    top_p: float | None = None  # draw from the fewest codes that are together this likely

    def __post_init__(self):
        if self.guidance_schedule not in SCHEDULES:
            raise ValueError(f"guidance_schedule '{self.guidance_schedule}' is none of {', '.join(SCHEDULES)}")
        if self.guidance_scale_pow < 0:
            raise ValueError(f"guidance_scale_pow is {self.guidance_scale_pow}, but must not be negative")
        if self.temperature < 0:
            raise ValueError(f"temperature is {self.temperature}, but must not be negative")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k is {self.top_k}, but must be at least 1")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}, but must be in (0, 1]")

    @classmethod
    def of(cls, generator: Any, **changes: Any) -> "SamplingSettings":
        """From the configuration of a generator, `model.generator`."""
        settings = {
            "guidance_scale": generator.guidance_scale,
            "guidance_scale_pow": generator.guidance_scale_pow,
            "temperature": generator.randomize_temperature,
        }
        return cls(**settings | changes)

    def scales(self, num_steps: int) -> list[float] | None:
        """Guidance scale of every step, or None where none of them guides."""
        if self.guidance_scale == 0:
            return None
        arguments = (num_steps, self.guidance_scale, self.guidance_scale_pow, self.guidance_schedule)
        scales = [guidance_scale(t, *arguments) for t in range(num_steps)]
        return None if all(s == 1 for s in scales) else scales


def image_noise(seed: int, image_ids: Sequence[int], num_steps: int) -> Tensor:
    """One uniform number in [0, 1) per image and step: float64 (images, steps).

    Counter-based (Philox keyed by seed and image), so image i draws the same numbers in any batch,
    on any rank, before and after an interruption.
    """
    rows = [np.random.Generator(np.random.Philox(key=[seed, i])).random(num_steps) for i in image_ids]
    return torch.from_numpy(np.stack(rows))


def keep_likely(logits: Tensor, top_k: int | None, top_p: float | None) -> Tensor:
    """-inf for all but the `top_k` largest, and all but the fewest that are together `top_p` likely.

    logits: (B, K). The most likely one stays in any case (nucleus sampling: arXiv:1904.09751).
    """
    if top_k is not None and top_k < logits.shape[-1]:
        logits = logits.masked_fill(logits < logits.topk(top_k).values[:, -1:], -torch.inf)
    if top_p is not None and top_p < 1:
        ordered, order = logits.sort(dim=-1, descending=True)
        probabilities = ordered.double().softmax(-1)
        superfluous = probabilities.cumsum(-1) - probabilities >= top_p
        logits = logits.masked_fill(superfluous.scatter(-1, order, superfluous), -torch.inf)
    return logits


def draw(logits: Tensor, uniform: Tensor) -> Tensor:
    """One draw per row from softmax(logits) by inversion of the cumulative distribution.

    logits: (B, K); uniform: (B,) in [0, 1). Returns codes (B,) int64.
    """
    # float64: in float32 the sum of thousands of small terms would shift every boundary.
    cumulative = logits.double().softmax(dim=-1).cumsum(dim=-1)
    threshold = uniform[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, threshold, right=True)[:, 0].clamp_(max=logits.shape[-1] - 1)


class CodeSampler:
    """Draws codes batch after batch with one generator and one way of drawing.

    With `fixed_rows` smaller batches are filled up to that many images, so that what is compiled
    meets one shape only. On a GPU every position's work, from the embedding to the draw, is then
    recorded as a CUDA graph at the first batch, and launched with one call from then on. One graph
    a position, rather than one for all of them, attends to just as many cached positions as there
    are and needs no mask.
    """

    def __init__(self, generator: Generator, settings: SamplingSettings, fixed_rows: int | None = None):
        self.generator = generator
        self.settings = settings
        self.fixed_rows = fixed_rows
        self.scales = settings.scales(generator.num_codes)
        self._batch: _Batch | None = None
        self._graphs: list[torch.cuda.CUDAGraph] = []
        self._busy = False

    def __call__(self, class_ids: Tensor, noise: Tensor) -> Tensor:
        """class_ids: (B,) in [0, num_classes); noise: (B, T) uniform, see `image_noise`.

        Returns codes (B, T) int64 in the tokenizer's order. Raises ValueError for class ids out of
        range, which would be other rows of the embedding table.
        """
        *_, codes = self.steps(class_ids, noise)
        return self.generator.finish(codes.clone())  # the next batch may be drawn in the same place

    @torch.no_grad()  # not inference_mode: sharded weights are gathered into tensors that training uses, too
    def steps(self, class_ids: Tensor, noise: Tensor) -> Iterator[Tensor]:
        """After each position t, the codes so far: (B, t + 1), a view, in the order drawn.

        Raises ValueError as a call does, and RuntimeError where graphs are used and another batch, which
        lies in the same tensors, has neither ended nor been closed.
        """
        if not 0 <= int(class_ids.min()) <= int(class_ids.max()) < self.generator.num_classes:
            raise ValueError(f"class ids must be in [0, {self.generator.num_classes}), not {class_ids.tolist()}")
        rows, noise = len(class_ids), noise.to(class_ids.device)
        if self.fixed_rows is None:
            batch = _Batch(self, class_ids, noise)
        elif rows > self.fixed_rows:
            raise ValueError(f"{rows} images in a batch, but there is room for {self.fixed_rows}")
        elif class_ids.is_cuda:
            yield from self._replay(class_ids, noise)
            return
        else:
            batch = self._empty_batch(class_ids.device)
            batch.fill(class_ids, noise)
        for t in range(self.generator.num_codes):
            batch.step(t)
            yield batch.codes[:rows, : t + 1]

    def _replay(self, class_ids: Tensor, noise: Tensor) -> Iterator[Tensor]:
        """`steps` by CUDA graphs, recorded where there are none yet."""
        if self._busy:
            raise RuntimeError(
                "another batch of this sampler is under way in the same tensors: let it end, or close it"
            )
        self._busy = True
        try:
            with torch.cuda.device(class_ids.device):  # streams are of the current device
                if not self._graphs:
                    self._record(class_ids.device)
            self._batch.fill(class_ids, noise)
            for t, graph in enumerate(self._graphs):
                with torch.cuda.device(class_ids.device):
                    graph.replay()
                yield self._batch.codes[: len(class_ids), : t + 1]
        finally:
            self._busy = False

    def _empty_batch(self, device: torch.device) -> "_Batch":
        class_ids = torch.zeros(self.fixed_rows, dtype=torch.int64, device=device)
        noise = torch.zeros(self.fixed_rows, self.generator.num_codes, dtype=torch.float64, device=device)
        return _Batch(self, class_ids, noise)

    def _record(self, device: torch.device) -> None:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # what may not be recorded: compiling, choosing of algorithms
            batch = self._empty_batch(device)
            for t in range(self.generator.num_codes):
                batch.step(t)
        torch.cuda.current_stream().wait_stream(side)
        del batch
        batch, graphs, pool = self._empty_batch(device), [], torch.cuda.graph_pool_handle()
        for t in range(self.generator.num_codes):
            graphs.append(torch.cuda.CUDAGraph())
            with torch.cuda.graph(graphs[-1], pool=pool):
                batch.step(t)
        self._batch, self._graphs = batch, graphs  # all of them or, if memory ran out, none


class _Batch:
    """The tensors of one batch on its way through the positions."""

    def __init__(self, sampler: CodeSampler, class_ids: Tensor, noise: Tensor):
        self.sampler, self.generator = sampler, sampler.generator
        self.rows = len(class_ids)
        self.noise = noise
        if sampler.scales:
            no_class = torch.full_like(class_ids, self.generator.num_classes)
            class_ids = torch.cat([class_ids, no_class])
        self.class_ids = class_ids
        self.codes = torch.zeros(self.rows, self.generator.num_codes, dtype=torch.int64, device=class_ids.device)
        self.state = self.generator.start(class_ids)

    def fill(self, class_ids: Tensor, noise: Tensor) -> None:
        """Other classes and noise in the same tensors, which are those that graphs were recorded with."""
        self.class_ids[: len(class_ids)] = class_ids
        self.noise[: len(noise)] = noise

    @sdpa_kernel(ATTENTION)
    def step(self, t: int) -> None:
        """Draw codes[:, t]; nothing here waits for the device."""
        settings, scales, rows = self.sampler.settings, self.sampler.scales, self.rows
        last = None
        if t:
            last = self.codes[:, t - 1]
            last = torch.cat([last, last]) if scales else last
        logits = self.generator.step(self.state, last)
        if scales:
            conditional, unconditional = logits.split(rows)
            logits = unconditional + scales[t] * (conditional - unconditional)
        if settings.temperature == 0:
            self.codes[:, t] = logits.argmax(-1)
            return
        logits = keep_likely(logits / settings.temperature, settings.top_k, settings.top_p)
        self.codes[:, t] = draw(logits, self.noise[:, t])


def sample_codes(generator: Generator, class_ids: Tensor, noise: Tensor, settings: SamplingSettings) -> Tensor:
    """One batch of codes (B, T), see `CodeSampler`."""
    return CodeSampler(generator, settings)(class_ids, noise)
