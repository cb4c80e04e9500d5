"""Build the models that a configuration names, and load their weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from modeling.configs import read_models_config, read_tokenizer_config
from modeling.interfaces import GENERATORS, TOKENIZERS, CodeLayout, Generator, Tokenizer, TrainableTokenizer
from utils.errors import UserError
from utils.pretrained import pretrained_weights, tokenizer_beside
from utils.weights import fingerprint, load_strict, read_state_dict


def _layout(vq_model: Any) -> CodeLayout | None:
    try:
        return vq_model.layout
    except ValueError as error:
        raise UserError(f"model.vq_model: {error}") from error


def code_layout(vq_model: Any) -> CodeLayout:
    """The codes of the tokenizer with settings `vq_model`.

    Raises UserError for sizes that do not fit together, and for a tokenizer without codes.
    """
    layout = _layout(vq_model)
    if layout is None:
        raise UserError(
            f"model.vq_model: this '{vq_model.name}' tokenizer makes continuous latents, not codes; token caches and"
            " generators need a tokenizer with a codebook"
        )
    return layout


def build_tokenizer(vq_model: Any) -> Tokenizer:
    """A freshly initialised tokenizer for `model.vq_model`. Raises UserError for sizes that do not fit together."""
    _layout(vq_model)
    return TOKENIZERS.build(vq_model.name, vq_model)


def build_trainable_tokenizer(vq_model: Any) -> TrainableTokenizer:
    """As `build_tokenizer`. Raises UserError for a tokenizer that has no training."""
    if not TOKENIZERS.part_class(vq_model.name).trainable:
        raise UserError(f"model.vq_model: the tokenizer '{vq_model.name}' has no training, only published weights")
    return build_tokenizer(vq_model)


def build_generator(generator: Any, layout: CodeLayout) -> Generator:
    """A freshly initialised generator for `model.generator`, of codes with that layout."""
    return GENERATORS.build(generator.name, generator, layout)


def to_inference(model: nn.Module, device: torch.device | str) -> nn.Module:
    """Move to `device`, in evaluation mode and without gradients."""
    return model.to(device).eval().requires_grad_(False)


def _load(build: Callable[[], nn.Module], checkpoint: str | Path, device: Any, **how: Any) -> nn.Module:
    """how: for `load_strict`."""
    state = read_state_dict(pretrained_weights(checkpoint))  # first, because it may fail and building takes longer
    with torch.device("meta"):  # skip the random initialisation, which the file overwrites
        model = build()
    load_strict(model, state, checkpoint, **how)
    return to_inference(model, device)


def load_tokenizer(vq_model: Any, checkpoint: str | Path, device: torch.device | str = "cpu") -> Tokenizer:
    """Tokenizer with the weights of `checkpoint`, for inference. Raises UserError.

    checkpoint: a file, a folder or a hub id; also those of a generator with its tokenizer beside it.
    """
    family = TOKENIZERS.part_class(vq_model.name)
    how = {"optional": family.optional_keys, "variants": family.variants}
    return _load(lambda: build_tokenizer(vq_model), tokenizer_beside(checkpoint), device, **how)


def tokenizer_fingerprint(tokenizer: Tokenizer) -> str:
    """SHA-256 over the weights that encode and decode, whatever training keeps beside them."""
    return fingerprint({key: v for key, v in tokenizer.state_dict().items() if key not in tokenizer.optional_keys})


def load_generator(
    generator: Any, layout: CodeLayout, checkpoint: str | Path, device: torch.device | str = "cpu"
) -> Generator:
    """Generator with the weights of `checkpoint`, for inference: a file, a folder or a hub id. Raises UserError."""
    return _load(lambda: build_generator(generator, layout), checkpoint, device)


def load_pretrained_tokenizer(source: str | Path, device: torch.device | str = "cpu") -> Tokenizer:
    """The tokenizer in a folder or hub repository of its own, or beside the generator in theirs. Raises UserError."""
    return load_tokenizer(read_tokenizer_config(source), source, device)


def load_pretrained_generator(source: str | Path, device: torch.device | str = "cpu") -> Generator:
    """The generator in the output folder of its training, or of a hub id (name/repository). Raises UserError."""
    models = read_models_config(source)
    return load_generator(models.generator, code_layout(models.vq_model), source, device)


def cast_parameters(model: Generator, dtype: torch.dtype) -> None:
    """Cast weights, but not buffers such as the rotary table, nor the submodules in `model.float32_parts`."""
    kept = tuple(f"{part}." for part in model.float32_parts)
    for name, parameter in model.named_parameters():
        if not name.startswith(kept):
            parameter.data = parameter.data.to(dtype)
