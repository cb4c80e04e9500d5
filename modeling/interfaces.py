"""What the rest of the project needs from a tokenizer and from a generator, and the two registries.

Token cache, AR training, sampler and evaluation use these interfaces only, so another tokenizer
(TiTok's 32 tokens, MaskGIT-VQ) or another generator (RAR's permuted order) joins by registering a
configuration dataclass and a class, and an import of its module in `modeling/build.py`.
"""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from utils.errors import UserError, nearest


@runtime_checkable
class Tokenizer(Protocol):
    """Images <-> codes. Implementations are `torch.nn.Module`s."""

    image_size: int
    """Side of the square images, in pixels."""
    num_codes: int
    """Codes per image (T)."""
    codebook_size: int
    """Codes are integers in [0, codebook_size)."""

    def encode(self, images: Tensor) -> Tensor:
        """images: (B, 3, H, W) in [0, 1] -> codes (B, T) int64."""

    def decode(self, codes: Tensor) -> Tensor:
        """codes: (B, T) int64 -> images (B, 3, H, W) in [0, 1]."""


@runtime_checkable
class Generator(Protocol):
    """Codes and classes <-> next-code logits. Implementations are `torch.nn.Module`s.

    A generator that visits the codes in an order of its own keeps that to itself: codes enter
    and leave `loss` and `finish` in the tokenizer's order. One that has a method
    `optimize_for_sampling(rows, compile)` is told once that it will be used for sampling alone; those
    of its submodules whose names are in `float32_parts` stay as they are when the others are cast for it.
    """

    num_codes: int
    codebook_size: int
    num_classes: int

    def loss(self, codes: Tensor, class_ids: Tensor) -> tuple[Tensor, Tensor]:
        """codes: (B, T), class_ids: (B,) -> mean loss in nats per code, accuracy in [0, 1]."""

    def start(self, class_ids: Tensor) -> Any:
        """Begin decoding rows of class_ids (B,); the class `num_classes` means "no class"."""

    def step(self, state: Any, codes: Tensor | None) -> Tensor:
        """Feed the codes (B,) drawn last (None at first); logits (B, K) of the next code."""

    def finish(self, codes: Tensor) -> Tensor:
        """codes (B, T) in the order drawn -> codes (B, T) in the tokenizer's order."""


class Registry:
    """Names of a kind of model -> (configuration dataclass, class taking that configuration)."""

    def __init__(self, kind: str):
        self.kind = kind
        self._entries: dict[str, tuple[type, Callable[[Any], Any]]] = {}

    def register(self, name: str, config_class: type) -> Callable:
        def add(model_class):
            self._entries[name] = (config_class, model_class)
            return model_class

        return add

    def _entry(self, name: str) -> tuple[type, Callable[[Any], Any]]:
        if name not in self._entries:
            known = ", ".join(sorted(self._entries))
            raise UserError(f"unknown {self.kind} '{name}'{nearest(name, self._entries)} (known: {known})")
        return self._entries[name]

    def config_class(self, name: str) -> type:
        return self._entry(name)[0]

    def build(self, config: Any) -> Any:
        """Build from a configuration with a `name`. ValueErrors become `UserError`s."""
        try:
            return self._entry(config.name)[1](config)
        except (ValueError, ZeroDivisionError, RuntimeError) as error:
            raise UserError(f"{self.kind} configuration: {error}") from error


TOKENIZERS = Registry("tokenizer")
GENERATORS = Registry("generator")
