"""Masked decoding (Chang et al., "MaskGIT", arXiv:2202.04200): in every sampling step all masked codes are drawn,
and the least confident of them are masked again. The codes of an image do not depend on the batch."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from modeling.interfaces import MaskedGenerator
from sampling.completion import check_kept
from sampling.cpu import pack_linears
from sampling.decoding import DECODERS, DRAW_BYTES, check_batch
from sampling.noise import draw, gumbel

DECAYS = ("constant", "linear", "power-cosine")


@dataclass(frozen=True)
class MaskedSettings:
    """How a masked generator's codes are drawn. Raises ValueError for values out of range."""

    num_steps: int = 8  # sampling steps
    guidance_scale: float = 0.0  # 0 means no guidance
    guidance_decay: str = "linear"
    guidance_scale_pow: float = 3.0  # of power-cosine
    temperature: float = 1.0  # of the first sampling step; 0: the most likely codes
    softmax_temperature_annealing: bool = False

    def __post_init__(self):
        if self.num_steps < 1:
            raise ValueError(f"num_steps is {self.num_steps}, but must be at least 1")
        for name in ("guidance_scale", "guidance_scale_pow", "temperature"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"{name} is {getattr(self, name)}, but must be a finite number")
        if self.guidance_decay not in DECAYS:
            raise ValueError(f"guidance_decay '{self.guidance_decay}' is none of {', '.join(DECAYS)}")
        if self.guidance_scale_pow < 0:
            raise ValueError(f"guidance_scale_pow is {self.guidance_scale_pow}, but must not be negative")
        if self.temperature < 0:
            raise ValueError(f"temperature is {self.temperature}, but must not be negative")

    @classmethod
    def from_config(cls, generator: Any, **changes: Any) -> "MaskedSettings":
        """generator: the configuration `model.generator`."""
        settings = {
            "num_steps": generator.num_steps,
            "guidance_scale": generator.guidance_scale,
            "guidance_decay": generator.guidance_decay,
            "guidance_scale_pow": generator.guidance_scale_pow,
            "temperature": generator.randomize_temperature,
            "softmax_temperature_annealing": generator.softmax_temperature_annealing,
        }
        return cls(**settings | changes)

    def guidance_weight(self, step: int) -> float:
        """w of the guided logits c + w (c - u) in sampling step 0 .. num_steps - 1.

        c and u are the logits with the class and without it. Published as c + scale (c - u), constant;
        c + scale s / N (c - u), linear; u + g (c - u), power-cosine, with
        g = 1 + (scale - 1) (1 - cos(pi (s / N)^p)) / 2.
        """
        if self.guidance_scale == 0 or self.guidance_decay == "constant":
            return self.guidance_scale
        progress = step / self.num_steps
        if self.guidance_decay == "linear":
            return self.guidance_scale * progress
        return (self.guidance_scale - 1) * (1 - math.cos(math.pi * progress**self.guidance_scale_pow)) / 2

    def steps_to_come(self, step: int) -> float:
        """Share of the sampling steps that follow step 0 .. num_steps - 1."""
        return 1 - (step + 1) / self.num_steps


def masked_counts(num_codes: int, num_steps: int) -> list[int]:
    """How many codes of each image are masked after every sampling step; none after the last.

    A share arccos(r) / (pi / 2) when a share r of the steps is done, but at least one less than before, and one.
    """
    counts, masked = [], num_codes
    for step in range(1, num_steps):
        wanted = math.floor(num_codes * math.acos(step / num_steps) / (math.pi / 2))
        masked = max(1, min(masked - 1, wanted))
        counts.append(masked)
    return [*counts, 0]


@DECODERS.register("masked", MaskedSettings)
class MaskedDecoder:
    """Decoder of a `MaskedGenerator`.

    Passes with the class and without it are one batch, and there is none without it where guidance has no weight.
    Logits are computed where codes are masked, because known codes stay.
    """

    def __init__(
        self,
        generator: MaskedGenerator,
        settings: MaskedSettings,
        *,
        fixed_rows: int | None = None,
        forward: Callable | None = None,
    ):
        self.generator = generator
        self.settings = settings
        self.fixed_rows = fixed_rows
        self.forward = forward or generator
        self.num_codes = generator.layout.num_codes
        self.order = torch.arange(self.num_codes)  # any codes can be kept
        self.noise_shape = (settings.num_steps, self.num_codes, 2)  # for the code, and for the confidence in it

    @staticmethod
    def prepare(generator: MaskedGenerator, settings: MaskedSettings, batch_size: int, compile: bool) -> Callable:
        """On a CPU weights are packed; compilation could only speed up what is no matrix product, a third of the time
        at most. On a GPU the blocks are compiled."""
        if next(generator.parameters()).device.type == "cpu":
            pack_linears(generator, 2 * batch_size * (1 + generator.layout.num_codes))
        elif compile:
            for block in generator.blocks:
                block.compile()
        return generator

    @staticmethod
    def bytes_per_image(generator: MaskedGenerator, settings: MaskedSettings, bytes_per_number: int) -> int:
        """Mostly the logits of all places."""
        return 2 * generator.layout.num_codes * generator.layout.codebook_size * DRAW_BYTES

    def __call__(self, class_ids: Tensor, noise: Tensor, kept: Tensor | None = None) -> Tensor:
        """Codes (B, T) int64. Arguments and errors: see `stream`."""
        *_, codes = self.stream(class_ids, noise, kept)
        return codes

    @torch.no_grad()  # not inference_mode: sharded weights are gathered into tensors that training uses too
    def stream(self, class_ids: Tensor, noise: Tensor, kept: Tensor | None = None) -> Iterator[Tensor]:
        """The codes after every sampling step, (B, T) int64, -1 where masked.

        class_ids: (B,) in [0, num_classes); noise: (B, num_steps, T, 2) in [0, 1). kept: (B, T), codes that are
        never masked, equally many in each row, and -1 elsewhere. All sampling steps then draw the others.
        Raises ValueError for other class ids and kept codes, and for too many rows.
        """
        check_batch(self.generator, class_ids, self.fixed_rows)
        rows, device = len(class_ids), class_ids.device
        codes = torch.full((rows, self.num_codes), -1, device=device)
        if kept is not None:
            check_kept(self.generator, class_ids, kept)
            codes = kept.to(device)
        if self.fixed_rows is not None:
            filling = self.fixed_rows - rows
            class_ids = torch.cat([class_ids, class_ids.new_zeros(filling)])
            noise = torch.cat([noise, noise.new_zeros(filling, *self.noise_shape)])
            codes = torch.cat([codes, codes[:1].expand(filling, -1)])
        noise, masked = noise.to(device), (codes < 0).sum(1)
        if (masked != masked[0]).any():
            raise ValueError("equally many codes of each image must be kept")
        if masked[0] == 0:
            yield codes[:rows]
            return
        places = (codes < 0).nonzero()[:, 1].view(len(codes), -1)  # of the masked codes, ascending
        for step, left in enumerate(masked_counts(places.shape[1], self.settings.num_steps)):
            codes, places = self.sampling_step(step, left, codes, places, class_ids, noise[:, step])
            yield codes[:rows]

    def sampling_step(
        self, step: int, left: int, codes: Tensor, places: Tensor, class_ids: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Draw all masked codes and mask the least confident ones again.

        left: how many of each image are masked after this step; codes: (B, T), -1 where masked; places: (B, n),
        where that is, ascending; noise: (B, T, 2). Returns the next codes and places.
        """
        logits = self._logits(step, codes, class_ids, places)
        uniform = noise.gather(1, places[..., None].expand(-1, -1, 2))
        temperature = self.settings.temperature * self.settings.steps_to_come(step)
        drawn = _draw(logits, uniform[..., 0], temperature)
        confidence = logits.gather(2, drawn[..., None])[..., 0] + temperature * gumbel(uniform[..., 1])
        # A stable sort of ascending places: of equally confident codes the first ones are masked.
        least = confidence.argsort(dim=1, stable=True)[:, :left]
        codes = codes.scatter(1, places, drawn)
        places = places.gather(1, least).sort(dim=1).values
        return codes.scatter(1, places, -1), places

    def _logits(self, step: int, codes: Tensor, class_ids: Tensor, places: Tensor) -> Tensor:
        """Guided logits (B, n, K) at the places (B, n), divided by the softmax temperature."""
        weight = self.settings.guidance_weight(step)
        if weight:
            no_class = torch.full_like(class_ids, self.generator.num_classes)
            rows = torch.cat([codes, codes]), torch.cat([class_ids, no_class]), torch.cat([places, places])
            conditional, unconditional = self.forward(*rows).float().chunk(2)
            logits = conditional + weight * (conditional - unconditional)
        else:
            logits = self.forward(codes, class_ids, places).float()
        if self.settings.softmax_temperature_annealing:
            logits = logits / (0.5 + 0.8 * self.settings.steps_to_come(step))
        return logits


def _draw(logits: Tensor, uniform: Tensor, temperature: float) -> Tensor:
    """Codes (B, n) from logits (B, n, K).

    Published as the argmax of logits + temperature * Gumbel noise. That is a draw from softmax(logits / temperature),
    for which one uniform number is enough, and not one for each of the K codes.
    """
    if temperature == 0:
        return logits.argmax(-1)
    return draw((logits / temperature).flatten(0, 1), uniform.flatten()).view_as(uniform)
