"""Toy trainings in this process."""

from pathlib import Path

import torch

from tests.support import toy
from train_generator.config import ARConfig
from train_generator.trainer import GeneratorTrainer
from train_tokenizer.config import TokenizerConfig
from train_tokenizer.trainer import TokenizerTrainer
from utils.config import load_config

# Plots of the curves, drawn after each validation, take most of a toy training's time.
VALIDATE_AT_THE_END = "experiment.eval_every=100"
VALIDATE_OFTEN = "experiment.eval_every=4"
ONE_SHORT_PHASE = "phases=[{name: mse, steps: 4, learning_rate: 1e-3}]"


def generator_trainer(folder: Path, name: str, *overrides: str) -> GeneratorTrainer:
    """Train a generator in folder/name for 8 steps with a moving average, on the token cache folder/cache."""
    cache = folder / "cache"
    if not cache.exists():
        toy.write_token_cache(cache)
    arguments = [
        f"config={toy.write_ar_config(folder / 'ar.yaml', use_ema=True)}",
        f"dataset.params.pretokenization={cache}",
        f"dataset.params.pretokenization_val={cache}",
        f"experiment.output_dir={folder / name}",
        "experiment.tokenizer_checkpoint=none",
        VALIDATE_AT_THE_END,
        *overrides,
    ]
    return GeneratorTrainer(load_config(ARConfig, "", arguments))


def tokenizer_trainer(folder: Path, name: str, stage: int, *overrides: str) -> TokenizerTrainer:
    """Train a tokenizer in folder/name for 6 steps without and 4 with the GAN, on the images folder/images.

    The end of each phase is validated, too.
    """
    arguments = [
        f"config={toy.write_tokenizer_config(folder / f'stage{stage}.yaml', stage)}",
        f"dataset.params.data_path={folder / 'images'}",
        f"experiment.output_dir={folder / name}",
        VALIDATE_AT_THE_END,
        *overrides,
    ]
    return TokenizerTrainer(load_config(TokenizerConfig, "", arguments))


def train_step(model, optimizer, codes: torch.Tensor, class_ids: torch.Tensor, autocast: torch.autocast) -> None:
    """One optimizer step of a generator, without a trainer."""
    with autocast:
        loss = model.loss(codes, class_ids)
    loss.value.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
