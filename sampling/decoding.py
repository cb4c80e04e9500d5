"""What the project needs from a way of decoding, and the registry of all ways.

A generator names its way of decoding in `decoding`. Settings and noise belong to the way of decoding.
"""

from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any, Protocol

import torch
from torch import Tensor

from modeling.interfaces import Generator
from sampling.settings import SamplingOptions
from utils.errors import UserError
from utils.registry import Registry

DECODERS = Registry(
    "decoding",
    {"autoregressive": "sampling.autoregressive", "masked": "sampling.masked"},
    default="autoregressive",
)
CONFIG_NAMES = {"temperature": "randomize_temperature"}  # settings with another name in `model.generator`
DRAW_BYTES = 4 + 3 * 8  # a logit, and what `noise.draw` makes of it in float64


class DecoderSettings(Protocol):
    """A frozen dataclass. Its constructor raises ValueError for values out of range."""

    @classmethod
    def from_config(cls, generator: Any, **changes: Any) -> "DecoderSettings":
        """generator: the configuration `model.generator`."""


class Decoder(Protocol):
    """Draws codes batch after batch with one generator and one set of settings."""

    noise_shape: tuple[int, ...]  # uniform numbers that each image needs
    order: Tensor  # (T,) int64: the places of the codes, those that are drawn first come first

    def __init__(
        self,
        generator: Generator,
        settings: DecoderSettings,
        *,
        fixed_rows: int | None = None,
        forward: Callable | None = None,
    ):
        """fixed_rows: fill smaller batches up to this many images, so that compiled code sees one shape.

        forward: what `prepare` returned, in place of the generator itself.
        """

    @staticmethod
    def prepare(generator: Generator, settings: DecoderSettings, batch_size: int, compile: bool) -> Callable:
        """Make the generator fast for batches of `batch_size` images; it may change in place.

        Returns a function with the generator's own arguments and result.
        """

    @staticmethod
    def bytes_per_image(generator: Generator, settings: DecoderSettings, bytes_per_number: int) -> int:
        """Memory that an image of a batch takes while its codes are drawn."""

    def __call__(self, class_ids: Tensor, noise: Tensor, kept: Tensor | None = None) -> Tensor:
        """class_ids: (B,); noise: (B, *noise_shape) in [0, 1), see `image_noise`. Returns codes (B, T) int64.

        kept: (B, T) int64, codes that stay, and -1 where one is drawn; None: all are drawn. Raises ValueError for
        codes out of range, and if codes at these places cannot be kept.
        """

    def stream(self, class_ids: Tensor, noise: Tensor, kept: Tensor | None = None) -> Iterator[Tensor]:
        """After each stage the codes so far, (B, T) int64, -1 where none is drawn yet; the last one is complete."""


def check_batch(generator: Generator, class_ids: Tensor, fixed_rows: int | None) -> None:
    """Raise ValueError for class ids that do not exist, which would read other rows of the embedding table,
    and for more than `fixed_rows` images."""
    if not 0 <= int(class_ids.min()) <= int(class_ids.max()) < generator.num_classes:
        raise ValueError(f"class ids must be in [0, {generator.num_classes}), not {class_ids.tolist()}")
    if fixed_rows is not None and len(class_ids) > fixed_rows:
        raise ValueError(f"{len(class_ids)} images in a batch, but there is room for {fixed_rows}")


def decoder_settings(generator_config: Any, decoding: str, **changes: Any) -> DecoderSettings:
    """Settings of a way of decoding from `model.generator` and changes. Raises UserError."""
    settings_class = DECODERS.settings_class(decoding)
    known = [field.name for field in fields(settings_class)]
    for name in changes:
        if name not in known:
            raise UserError(f"{decoding} decoding has no setting '{name}' (it has {', '.join(known)})")
    try:
        return settings_class.from_config(generator_config, **changes)
    except ValueError as error:
        raise UserError(f"sampling settings: {error}") from error


def override_key(name: str) -> str:
    """Key of a configuration that holds a setting of the decoder."""
    if name in (option.name for option in fields(SamplingOptions)):
        return f"sampling.{name}"
    return f"model.generator.{CONFIG_NAMES.get(name, name)}"


def make_decoder(generator: Generator, settings: DecoderSettings, **options: Any) -> Decoder:
    """The decoder that the generator names. options: see `Decoder.__init__`."""
    return DECODERS.part_class(generator.decoding)(generator, settings, **options)


def fill_undrawn(codes: Tensor) -> Tensor:
    """Replace -1 in codes (B, T) by the nearest drawn code before it, else by the nearest one after it."""
    places = torch.arange(codes.shape[1], device=codes.device)
    drawn = codes >= 0
    before = torch.where(drawn, places, -1).cummax(1).values
    after = torch.where(drawn, places, codes.shape[1] - 1).flip(1).cummin(1).values.flip(1)
    return codes.gather(1, torch.where(before >= 0, before, after))
