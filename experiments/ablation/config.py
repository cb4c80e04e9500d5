"""The configuration of an ablation: what is common, and a list of overrides for each variant.

configs/fashion_mnist/ablation.yaml explains the keys.
"""

import re
from dataclasses import dataclass, field

from omegaconf import MISSING

from utils.errors import UserError, nearest

INCEPTION = "_inception"  # ends the name of what Inception says of samples
FOLDERS = ("configs", "cache_train", "cache_val", "tokenizer_stage1", "tokenizer_stage2")  # of a run, besides


@dataclass
class Stages:
    """Configuration files of the three trainings."""

    stage1: str = MISSING
    stage2: str = MISSING
    ar: str = MISSING


@dataclass
class Overrides:
    """`dotted.key=value` items for each training."""

    stage1: list[str] = field(default_factory=list)
    stage2: list[str] = field(default_factory=list)
    ar: list[str] = field(default_factory=list)


@dataclass
class Variant(Overrides):
    title: str = MISSING  # in tables and plots
    second_stage: bool = False  # train a second decoder on the frozen codes, and draw samples with it
    codes_of: str | None = None  # share stage 1, codes and AR models with this variant


@dataclass
class AblationConfig:
    output_dir: str = MISSING
    data_path: str = MISSING
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    jobs: int = 1
    cached_images: int | None = None
    cached_val_images: int | None = None
    classifier_epochs: float = 4.0
    configs: Stages = field(default_factory=Stages)
    overrides: Overrides = field(default_factory=Overrides)
    probes: dict[str, list[str]] = field(default_factory=dict)
    samplings: dict[str, list[str]] = field(default_factory=dict)
    variants: dict[str, Variant] = field(default_factory=dict)
    only: list[str] | None = None  # of the variants


def check(config: AblationConfig) -> None:
    """Raise UserError for a configuration that makes no sense as a whole."""
    for key in ("variants", "seeds", "samplings"):
        if not getattr(config, key):
            raise UserError(f"an ablation needs {key}: the configuration lists none")
    if len(set(config.seeds)) < len(config.seeds):
        raise UserError(f"seeds {config.seeds}: one comes twice")
    for name in config.only or ():
        if name not in config.variants:
            raise UserError(f"only: there is no variant '{name}'{nearest(name, config.variants)}")
    names = ["ar", "stage1", "stage2", "tokenizer", *config.probes, *config.samplings]
    names += [f"{sampling}{INCEPTION}" for sampling in config.samplings]
    for name in (*names, *config.variants):
        if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
            raise UserError(f"'{name}' becomes a folder's name: only a-z, 0-9 and _, please")
        if names.count(name) > 1 or name in FOLDERS:
            raise UserError(f"probes and samplings: '{name}' is taken already, choose another name")
    titles = [variant.title for variant in config.variants.values()]
    if len(set(titles)) < len(titles):
        raise UserError(f"titles {titles}: one comes twice")
    for name, variant in config.variants.items():
        if variant.stage2 and not variant.second_stage:
            raise UserError(f"variants.{name} has overrides of stage2, but second_stage is false")
        other = variant.codes_of
        if other is None:
            continue
        if other not in config.variants or config.variants[other].codes_of:
            raise UserError(f"variants.{name}.codes_of: '{other}' is no variant with codes of its own")
        if variant.stage1 or variant.ar:
            raise UserError(f"variants.{name} shares the codes of '{other}': overrides of stage1 and ar go there")
