"""Weights, caches and files as people have them: inputs of tests/test_cases_places.py."""

from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.support import toy


def not_finite(folder: Path) -> Path:
    """Toy weights with NaN or infinity in one tensor: generator, decoder, encoder. Returns `folder`."""
    folder.mkdir()
    generator = toy.generator().state_dict()
    tokenizer = toy.tokenizer(init_std=0.3).state_dict()
    for name, state, prefix, value in (
        ("generator", generator, "blocks.", torch.nan),
        ("decoder", tokenizer, "decoder.", torch.inf),
        ("encoder", tokenizer, "encoder.", torch.nan),
    ):
        changed = {key: tensor.clone() for key, tensor in state.items()}
        key = next(key for key, tensor in changed.items() if key.startswith(prefix) and tensor.ndim > 1)
        changed[key][0, 0] = value
        save_file(changed, folder / f"{name}.safetensors")
    return folder
