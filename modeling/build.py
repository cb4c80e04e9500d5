"""Building the models that a configuration names, and loading their weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import modeling.alitok.generator
import modeling.alitok.tokenizer  # noqa: F401  (both register their classes)
from modeling.interfaces import GENERATORS, TOKENIZERS, Generator, Tokenizer
from utils.errors import UserError
from utils.weights import TOKENIZER_OPTIONAL_KEYS, load_strict, read_state_dict


def build_tokenizer(config: Any) -> Tokenizer:
    """A freshly initialised tokenizer for `model.vq_model`."""
    return TOKENIZERS.build(config)


def build_generator(config: Any) -> Generator:
    """A freshly initialised generator for `model.generator`."""
    return GENERATORS.build(config)


def frozen(model: nn.Module, device: torch.device | str) -> nn.Module:
    """The model ready for inference on `device`."""
    return model.to(device).eval().requires_grad_(False)


def _load(
    build: Callable[[Any], nn.Module],
    config: Any,
    checkpoint: str | Path,
    device: torch.device | str,
    optional: tuple[str, ...] = (),
) -> nn.Module:
    state = read_state_dict(checkpoint)  # first, as it may fail and building takes longer
    with torch.device("meta"):  # no random weights, only to overwrite them
        model = build(config)
    load_strict(model, state, checkpoint, optional=optional)
    return frozen(model, device)


def load_tokenizer(config: Any, checkpoint: str | Path, device: torch.device | str = "cpu") -> Tokenizer:
    """Tokenizer with the weights of `checkpoint`, frozen. Raises UserError."""
    return _load(build_tokenizer, config, checkpoint, device, TOKENIZER_OPTIONAL_KEYS)


def load_generator(config: Any, checkpoint: str | Path, device: torch.device | str = "cpu") -> Generator:
    """Generator with the weights of `checkpoint`, frozen. Raises UserError."""
    return _load(build_generator, config, checkpoint, device)


def check_fit(tokenizer: Tokenizer, generator: Generator) -> None:
    """Raise UserError unless the generator predicts this tokenizer's codes."""
    for what, ours, theirs in (
        ("codes per image", tokenizer.num_codes, generator.num_codes),
        ("codebook size", tokenizer.codebook_size, generator.codebook_size),
    ):
        if ours != theirs:
            raise UserError(f"{what}: {ours} in model.vq_model, {theirs} in model.generator")


def cast_parameters(model: nn.Module, dtype: torch.dtype) -> None:
    """Cast the weights alone: buffers such as the rotary table keep their precision.

    So do the parts that the model names in `float32_parts`, if it has that.
    """
    for name, parameter in model.named_parameters():
        if name.split(".")[0] not in getattr(model, "float32_parts", ()):
            parameter.data = parameter.data.to(dtype)
