"""Weights, caches and files as people have them: inputs of tests/test_cases_places.py."""

import argparse
import re
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


def wrapped_weights(folder: Path, state: dict[str, torch.Tensor]) -> Path:
    """The same weights as other programs save them. Returns `folder`."""
    folder.mkdir()
    other = {key: torch.zeros_like(value) for key, value in state.items()}
    optimizer = {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 0.1}]}
    compiled_blocks = {re.sub(r"^(blocks\.\d+)\.", r"\1._orig_mod.", key): value for key, value in state.items()}
    for name, content in {
        "ddp.pt": {f"module.{key}": value for key, value in state.items()},
        "compiled.pt": {f"_orig_mod.{key}": value for key, value in state.items()},
        "compiled_blocks.pt": compiled_blocks,
        "both.pt": {f"module._orig_mod.{key}": value for key, value in state.items()},
        "averaged.pt": {"n_averaged": torch.tensor(3), **{f"module.{key}": value for key, value in state.items()}},
        "nested.pt": {"model": other, "ema": state, "optimizer": optimizer, "epoch": 3},
        "timm.pt": {"state_dict": other, "state_dict_ema": state, "arch": "x", "version": 2},
        "namespace.pt": {"model": state, "args": argparse.Namespace(lr=1.0), "rng": {"cpu": torch.zeros(3)}},
        "lightning.ckpt": {"state_dict": {f"model.{key}": value for key, value in state.items()}, "path": Path("x")},
    }.items():
        torch.save(content, folder / name)
    return folder
