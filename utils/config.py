"""One configuration system: a dataclass schema, a YAML file and dotted overrides, in that order.

python train_ar.py config=configs/alitok_b.yaml training.per_gpu_batch_size=64
"""

import operator
import sys
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

import modeling.build  # noqa: F401  (registers the models)
from modeling.interfaces import GENERATORS, TOKENIZERS
from utils.errors import UserError, first_line, nearest
from utils.schema import Architectures, ARExperiment, TokenizerArchitecture

MODEL_SECTIONS = {"vq_model": TOKENIZERS, "generator": GENERATORS}


def _dotted_keys(node: Any, prefix: str = "") -> list[str]:
    keys = []
    for key in node:
        keys.append(f"{prefix}{key}")
        if not OmegaConf.is_missing(node, key) and not OmegaConf.is_interpolation(node, key):
            value = node[key]
            keys += _dotted_keys(value, f"{prefix}{key}.") if isinstance(value, DictConfig) else []
    return keys


def _explain(error: OmegaConfBaseException, schema: DictConfig, source: str) -> UserError:
    key = error.full_key or ""
    if "not in" in str(error):  # an unknown key: name the closest one of its section, or of all
        section, _, leaf = key.rpartition(".")
        known = _dotted_keys(schema)
        siblings = [k for k in known if k.rpartition(".")[0] == section]
        fields = getattr(error.object_type, "__dataclass_fields__", {})
        hint = nearest(key, siblings) or nearest(leaf, fields) or nearest(key, known)
        return UserError(f"unknown configuration key '{key}' in {source}{hint}")
    return UserError(f"configuration key '{key}' in {source}: {first_line(error)}")


def read_yaml(path: str | Path) -> DictConfig:
    path = Path(path)
    if not path.is_file():
        hint = nearest(str(path), [str(p) for p in Path("configs").rglob("*.yaml")])
        raise UserError(f"configuration file not found: {path}{hint}")
    try:
        loaded = OmegaConf.load(path)
    except (YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(loaded, DictConfig):
        raise UserError(f"{path} holds no mapping of keys")
    return loaded


def _full_schema(schema_class: type, names: dict[str, str | None]) -> DictConfig:
    """The schema with the configurations of the named registered models in `model`."""
    schema = OmegaConf.structured(schema_class)
    for section, registry in MODEL_SECTIONS.items():
        if section in schema.get("model", ()):
            schema.model[section] = OmegaConf.structured(registry.config_class(names.get(section) or "alitok"))
    return schema


def flat(values: Any, key: str = "") -> dict[str, str]:
    """Values in dictionaries and lists by dotted key, as text."""
    if isinstance(values, list):
        values = dict(enumerate(values))
    if not isinstance(values, dict):
        return {key: str(values)}
    parts = [flat(value, f"{key}.{name}" if key else str(name)) for name, value in values.items()]
    return {name: text for part in parts for name, text in part.items()}


# The values that make sense, for keys of any schema.
LEAST = {
    "jobs": 1,
    "experiment.log_every": 1,
    "experiment.save_every": 1,
    "experiment.eval_every": 1,
    "experiment.keep_checkpoints": 1,
    "experiment.milestone_every": 0,
    "experiment.max_train_examples": 1,
    "dataset.params.max_bad_fraction": 0,
    "dataset.params.num_workers_per_gpu": 0,
    "optimizer.params.learning_rate": 0,
    "optimizer.params.weight_decay": 0,
    "optimizer.params.beta1": 0,
    "optimizer.params.beta2": 0,
    "lr_scheduler.params.learning_rate": 0,
    "lr_scheduler.params.warmup_steps": 0,
    "lr_scheduler.params.end_lr": 0,
    "training.per_gpu_batch_size": 1,
    "training.gradient_accumulation_steps": 1,
    "training.max_train_steps": 1,
    "training.seed": 0,
    "training.max_bad_steps": 1,
    "training.ema_decay": 0,
    "sampling.num_samples": 1,
    "sampling.batch_size": 1,
    "sampling.top_k": 1,
    "model.vq_model.patch_size": 1,
    "model.vq_model.image_size": 1,
    "model.vq_model.codebook_size": 1,
    "model.vq_model.encoder.num_heads": 1,
    "model.vq_model.decoder.num_heads": 1,
    "model.generator.num_attention_heads": 1,
    "model.generator.condition_num_classes": 1,
    "model.generator.randomize_temperature": 0,
    "model.generator.dropout": 0,
    "model.generator.attn_drop": 0,
    "model.generator.tok_dropout": 0,
    "model.generator.class_label_dropout": 0,
}
ABOVE = {"training.max_grad_norm": 0}
BELOW = {
    "optimizer.params.beta1": 1,
    "optimizer.params.beta2": 1,
    "training.seed": 2**32,  # numpy's limit
    "model.generator.dropout": 1,
    "model.generator.attn_drop": 1,
    "model.generator.tok_dropout": 1,
}
MOST = {"training.ema_decay": 1, "model.generator.class_label_dropout": 1}
RANGES = (
    (LEAST, operator.ge, "at least"),
    (ABOVE, operator.gt, "above"),
    (BELOW, operator.lt, "below"),
    (MOST, operator.le, "at most"),
)


def _check_ranges(config: DictConfig) -> None:
    for limits, holds, words in RANGES:
        for key, limit in limits.items():
            value = OmegaConf.select(config, key)
            if isinstance(value, int | float) and not holds(value, limit):
                raise UserError(f"{key} is {value}; it must be {words} {limit}")


def compose(schema_class: type, given: DictConfig, overrides: list[str], source: str) -> DictConfig:
    """Schema defaults, then `given`, then `overrides` ("dotted.key=value"), checked and typed.

    Where the schema has `model.vq_model` or `model.generator`, the registered model that their
    `name` stands for decides which keys they have. Raises UserError.
    """
    names = {}
    for section in MODEL_SECTIONS:
        key = f"model.{section}.name"
        chosen = [item.partition("=")[2] for item in overrides if item.startswith(f"{key}=")]
        names[section] = chosen[-1] if chosen else OmegaConf.select(given, key)
    schema = _full_schema(schema_class, names)
    try:
        config = OmegaConf.merge(schema, given)
    except OmegaConfBaseException as error:
        raise _explain(error, schema, source) from error
    for item in overrides:
        key, _, value = item.partition("=")
        try:
            parsed = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={value}"]))["value"]
            if isinstance(OmegaConf.select(config, key), DictConfig) and parsed is None:
                raise UserError(f"'{item}' would empty a whole section; set its keys one by one")
            OmegaConf.update(config, key, parsed, merge=True)
        except OmegaConfBaseException as error:
            raise _explain(error, schema, "the command line") from error
        except (YAMLError, ValueError, IndexError, TypeError) as error:
            raise UserError(f"cannot read the override '{item}' ({first_line(error)})") from error
    try:
        unset = sorted(OmegaConf.missing_keys(config))
        OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        raise _explain(error, schema, source) from error
    if unset:
        raise UserError(f"no value for {', '.join(unset)}: set it in {source} or on the command line")
    _check_ranges(config)
    return config


def load_config(schema_class: type, description: str, argv: list[str] | None = None) -> Any:
    """Read the command line of a script: `config=FILE` and `dotted.key=value` overrides.

    Returns an instance of `schema_class`. `--help` prints every key with its default and exits.
    Raises UserError with one line for anything wrong.
    """
    argv = sys.argv[1:] if argv is None else argv
    if {"-h", "--help"} & set(argv):
        print(f"{description}\n\nusage: config=FILE.yaml [dotted.key=value ...]\n")
        print("Keys and their defaults; the files in configs/ explain each:\n")
        print(OmegaConf.to_yaml(_full_schema(schema_class, {})))
        sys.exit(0)
    path, overrides = None, []
    for item in argv:
        key, equals, value = item.partition("=")
        if not equals or not key or key.startswith("-"):
            raise UserError(f"cannot read the argument '{item}': expected config=FILE or dotted.key=value")
        if key == "config":
            path = value
        else:
            overrides.append(item)
    if path is None:
        raise UserError("no configuration: start with config=FILE, for instance config=configs/alitok_b.yaml")
    return OmegaConf.to_object(compose(schema_class, read_yaml(path), overrides, path))


def _read_models(path: str | Path, schema_class: type, sections: tuple[str, ...]) -> tuple[Any, DictConfig]:
    """`model` of a configuration file with the given sections alone, and the whole file."""
    given = read_yaml(path)
    chosen = {section: OmegaConf.select(given, f"model.{section}") for section in sections}
    for section, value in chosen.items():
        if not isinstance(value, DictConfig):
            raise UserError(f"{path} has no section model.{section}")
    config = compose(schema_class, OmegaConf.create({"model": chosen}), [], str(path))
    return OmegaConf.to_object(config).model, given


def read_tokenizer_config(path: str | Path) -> Any:
    """`model.vq_model` of a tokenizer or generator configuration file, as its dataclass.

    Raises UserError.
    """
    return _read_models(path, TokenizerArchitecture, ("vq_model",))[0].vq_model


def read_models_config(path: str | Path) -> tuple[Any, Any, str]:
    """`model.vq_model`, `model.generator` and the tokenizer's weights of a generator's file.

    Raises UserError.
    """
    models, given = _read_models(path, Architectures, ("vq_model", "generator"))
    checkpoint = OmegaConf.select(given, "experiment.tokenizer_checkpoint") or ARExperiment.tokenizer_checkpoint
    return models.vq_model, models.generator, checkpoint
