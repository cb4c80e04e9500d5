"""The model sections of a configuration file: `model.vq_model` and `model.generator`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from omegaconf import DictConfig, OmegaConf

from modeling.interfaces import GENERATORS, TOKENIZERS
from utils.config import compose, option, section
from utils.errors import UserError
from utils.pretrained import config_file
from utils.yaml_files import read_yaml

# Keys of published files and of older trainings -> what takes their place.
REPLACED_KEYS = {
    "model.vq_model.pretrained_tokenizer_weight": "set experiment.tokenizer_checkpoint",
    "model.vq_model.finetune_decoder": "a generator's training never changes the tokenizer",
    "model.generator.codebook_size": "the tokenizer tells it; remove the line",
}


@dataclass
class TokenizerModel:
    vq_model: Any = option(None, "the tokenizer", registry=TOKENIZERS)


@dataclass
class Models(TokenizerModel):
    generator: Any = option(None, "the generator of its codes", registry=GENERATORS)


@dataclass
class _TokenizerFile:
    replaced_keys: ClassVar[dict[str, str]] = REPLACED_KEYS
    model: TokenizerModel = section(TokenizerModel)


@dataclass
class _ModelsFile:
    replaced_keys: ClassVar[dict[str, str]] = REPLACED_KEYS
    model: Models = section(Models)


def _read(source: str | Path, schema_class: type, *sections: str) -> Any:
    path = config_file(source)
    given = read_yaml(path)
    chosen = {name: OmegaConf.select(given, f"model.{name}") for name in sections}
    for name, value in chosen.items():
        if not isinstance(value, DictConfig):
            raise UserError(f"{path} has no section model.{name}")
    return OmegaConf.to_object(compose(schema_class, OmegaConf.create({"model": chosen}), [], str(path))).model


def read_tokenizer_config(source: str | Path) -> Any:
    """`model.vq_model` of a tokenizer's or generator's configuration: a file, a folder with it, or a hub id.

    Raises UserError.
    """
    return _read(source, _TokenizerFile, "vq_model").vq_model


def read_models_config(source: str | Path) -> Models:
    """`model` of a generator's configuration: a file, a folder with it, or a hub id. Raises UserError."""
    return _read(source, _ModelsFile, "vq_model", "generator")
