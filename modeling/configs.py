"""The model sections of a configuration file: `model.vq_model` and `model.generator`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from modeling.interfaces import GENERATORS, TOKENIZERS
from utils.config import compose, option, read_yaml, section
from utils.errors import UserError


@dataclass
class TokenizerModel:
    vq_model: Any = option(None, "the tokenizer", registry=TOKENIZERS)


@dataclass
class Models(TokenizerModel):
    generator: Any = option(None, "the generator of its codes", registry=GENERATORS)


@dataclass
class _TokenizerFile:
    model: TokenizerModel = section(TokenizerModel)


@dataclass
class _ModelsFile:
    model: Models = section(Models)


def _read(path: str | Path, schema_class: type, *sections: str) -> Any:
    given = read_yaml(path)
    chosen = {name: OmegaConf.select(given, f"model.{name}") for name in sections}
    for name, value in chosen.items():
        if not isinstance(value, DictConfig):
            raise UserError(f"{path} has no section model.{name}")
    return OmegaConf.to_object(compose(schema_class, OmegaConf.create({"model": chosen}), [], str(path))).model


def read_tokenizer_config(path: str | Path) -> Any:
    """`model.vq_model` of a tokenizer's or generator's configuration file. Raises UserError."""
    return _read(path, _TokenizerFile, "vq_model").vq_model


def read_models_config(path: str | Path) -> Models:
    """`model` of a generator's configuration file. Raises UserError."""
    return _read(path, _ModelsFile, "vq_model", "generator")
