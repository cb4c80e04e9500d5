"""How codes are drawn from logits, and the `sampling` section of a configuration."""

import math
from dataclasses import dataclass
from typing import Any

from modeling.layers.kv_cache import DTYPES
from sampling.guidance import SCHEDULES, guidance_scale
from utils.config import option


@dataclass
class SamplingOptions:
    """`sampling`: what sample_imagenet.py draws."""

    num_samples: int = option(50000, "images; image i has class i mod condition_num_classes", min=1)
    batch_size: int | None = option(
        None, "images per process and batch; null: at most 500, as a GPU's memory allows, and 32 on a CPU", min=1
    )
    class_ids: list[int] | None = option(None, "repeat these classes, e.g. [207, 250]; null: all")
    guidance_schedule: str | None = option(
        None, "scale along the codes, up to model.generator.guidance_scale", choices=(None, *SCHEDULES)
    )
    soft_guidance: bool = option(False, "SoftCFG: guide away from confident codes too (autoregressive generators)")
    top_k: int | None = option(None, "draw from this many most likely codes; null: all", min=1)
    top_p: float | None = option(
        None, "draw from the fewest codes that are together this likely; null: all", above=0, max=1
    )
    cache_precision: str | None = option(
        None,
        "of keys and values; null: as precision; fp8 and fp8_values: docs/sampling.md",
        choices=tuple(DTYPES),
    )
    precision: str | None = option(None, "null: bf16 on a GPU, fp32 on the CPU", choices=(None, "fp32", "bf16"))
    compile: bool | None = option(None, "compile the decoding; null: on a GPU only")
    save_png: bool = option(False, "also write output_dir/000000.png, ...")

    def changes(self) -> dict[str, Any]:
        """Settings of the decoder that are given here."""
        names = ("guidance_schedule", "soft_guidance", "top_k", "top_p", "cache_precision")
        return {name: value for name in names if (value := getattr(self, name))}


@dataclass(frozen=True)
class SamplingSettings:
    """How an autoregressive generator's codes are drawn. Raises ValueError for values out of range."""

    guidance_scale: float = 0.0  # 0 means no guidance, as 1 does
    guidance_scale_pow: float = 1.0
    guidance_schedule: str = "power_cosine"
    temperature: float = 1.0  # 0: the most likely code
    top_k: int | None = None  # draw from this many most likely codes
    top_p: float | None = None  # draw from the fewest codes that are together this likely
    soft_guidance: bool = False  # see `sampling.soft_guidance`
    cache_precision: str | None = None  # of keys and values; None: that of the weights

    def __post_init__(self):
        for name in ("guidance_scale", "guidance_scale_pow", "temperature"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"{name} is {getattr(self, name)}, but must be a finite number")
        if self.guidance_schedule not in SCHEDULES:
            raise ValueError(f"guidance_schedule '{self.guidance_schedule}' is none of {', '.join(SCHEDULES)}")
        if self.cache_precision not in DTYPES:
            raise ValueError(f"cache_precision '{self.cache_precision}' is none of fp8_values, fp8")
        if self.guidance_scale_pow < 0:
            raise ValueError(f"guidance_scale_pow is {self.guidance_scale_pow}, but must not be negative")
        if self.temperature < 0:
            raise ValueError(f"temperature is {self.temperature}, but must not be negative")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k is {self.top_k}, but must be at least 1")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}, but must be in (0, 1]")

    @classmethod
    def from_config(cls, generator: Any, **changes: Any) -> "SamplingSettings":
        """generator: the configuration `model.generator`."""
        settings = {
            "guidance_scale": generator.guidance_scale,
            "guidance_scale_pow": generator.guidance_scale_pow,
            "temperature": generator.randomize_temperature,
        }
        return cls(**settings | changes)

    def scales(self, num_codes: int) -> list[float] | None:
        """Guidance scale of every code, or None if none of them guides."""
        if self.guidance_scale == 0:
            return None
        arguments = (num_codes, self.guidance_scale, self.guidance_scale_pow, self.guidance_schedule)
        scales = [guidance_scale(t, *arguments) for t in range(num_codes)]
        return None if all(s == 1 for s in scales) else scales
