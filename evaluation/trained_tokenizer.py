"""The tokenizer that a training left in its output folder."""

from pathlib import Path

import torch

from modeling.build import load_tokenizer
from modeling.interfaces import Tokenizer
from utils.config import read_tokenizer_config
from utils.weights import EXPORTED


def load_tokenizer_from_run(folder: str | Path, device: torch.device | str = "cpu") -> Tokenizer:
    """Frozen tokenizer from config.yaml and model.safetensors in `folder`. Raises UserError."""
    folder = Path(folder)
    return load_tokenizer(read_tokenizer_config(folder / "config.yaml"), folder / EXPORTED, device)
