"""Building the models that a configuration names, and loading their weights."""

from typing import Any

import torch
from torch import nn

import modeling.generator
import modeling.tokenizer  # noqa: F401  (both register their classes)
from modeling.interfaces import GENERATORS, TOKENIZERS, Generator, Tokenizer
from utils.errors import UserError
from utils.weights import load_generator_weights, load_tokenizer_weights


def build_tokenizer(config: Any) -> Tokenizer:
    """A freshly initialised tokenizer for `model.vq_model`."""
    return TOKENIZERS.build(config)


def build_generator(config: Any) -> Generator:
    """A freshly initialised generator for `model.generator`."""
    return GENERATORS.build(config)


def frozen(model: nn.Module, device: torch.device | str) -> nn.Module:
    """The model ready for inference on `device`."""
    return model.to(device).eval().requires_grad_(False)


def load_tokenizer(config: Any, checkpoint: str, device: torch.device | str = "cpu") -> Tokenizer:
    """Tokenizer with the weights of `checkpoint`, frozen. Raises UserError."""
    tokenizer = build_tokenizer(config)
    load_tokenizer_weights(tokenizer, checkpoint)
    return frozen(tokenizer, device)


def load_generator(config: Any, checkpoint: str, device: torch.device | str = "cpu") -> Generator:
    """Generator with the weights of `checkpoint`, frozen. Raises UserError."""
    generator = build_generator(config)
    load_generator_weights(generator, checkpoint)
    return frozen(generator, device)


def check_fit(tokenizer: Tokenizer, generator: Generator) -> None:
    """Raise UserError unless the generator predicts this tokenizer's codes."""
    for what, ours, theirs in (
        ("codes per image", tokenizer.num_codes, generator.num_codes),
        ("codebook size", tokenizer.codebook_size, generator.codebook_size),
    ):
        if ours != theirs:
            raise UserError(f"{what}: {ours} in model.vq_model, {theirs} in model.generator")


def cast_parameters(model: nn.Module, dtype: torch.dtype) -> None:
    """Cast the weights alone: buffers such as the rotary table keep their precision."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
