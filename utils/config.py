"""Configuration: dataclasses with explained options, a YAML file, then dotted overrides, in that order.

python train_ar.py config=configs/alitok_b.yaml training.per_gpu_batch_size=64

A component declares its settings as a dataclass beside its code, one `option` a field; a script's
configuration is made of such dataclasses. A YAML file says what differs from the defaults, or from
another file that its key `base` names.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import field, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from utils.errors import UserError, first_line, nearest
from utils.limits import broken_limit, describe_limits
from utils.yaml_files import parse_yaml, read_yaml, resolve_path

COMMAND_LINE = "the command line"  # as a source of values
HELP_COLUMN = 44  # where `--help` starts its comments


def option(default: Any, help: str, **limits: Any) -> Any:
    """A field of a settings dataclass.

    default: MISSING if the user must set it. limits: `min`, `max` (inclusive), `above`, `below` (exclusive),
    `choices` (allowed values), `path` ("read": see `resolve_path`; "write": only ~ is replaced), or `registry` (a
    `utils.registry.Registry`: the value is the settings of the part that its key `name` chooses).
    A subclass may give the field another default without repeating this.
    """
    metadata = {"help": help, **limits}
    if isinstance(default, list | dict):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def section(settings_class: type, help: str = "") -> Any:
    """A field that holds another settings dataclass."""
    return field(default_factory=settings_class, metadata={"help": help})


def option_metadata(settings_class: type, name: str) -> dict[str, Any]:
    """What `option` was given for a field, by this class or the base class that declared it."""
    for base in settings_class.__mro__:
        declared = vars(base).get("__dataclass_fields__", {}).get(name)
        if declared is not None and declared.metadata:
            return dict(declared.metadata)
    return {}


def registry_sections(schema_class: type, prefix: str = "") -> dict[str, Any]:
    """Dotted key -> registry, for the sections with settings of a registered part."""
    found = {}
    hints = get_type_hints(schema_class)
    for item in fields(schema_class):
        key, metadata = f"{prefix}{item.name}", option_metadata(schema_class, item.name)
        if "registry" in metadata:
            found[key] = metadata["registry"]
        elif is_dataclass(hints[item.name]):
            found |= registry_sections(hints[item.name], f"{key}.")
    return found


def compose(schema_class: type, given: DictConfig, overrides: Sequence[str], source: str) -> DictConfig:
    """Defaults, then `given`, then `overrides` ("dotted.key=value"), typed and checked. Raises UserError.

    source: the file that `given` was read from. A key of text holds what was typed, letter for letter.
    """
    schema = _schema(schema_class, given, overrides)
    try:
        config = OmegaConf.merge(schema, given)
    except OmegaConfBaseException as error:
        raise _explain(error, schema, source) from error
    for item in overrides:
        _override(config, item, schema)
    try:
        unset = sorted(OmegaConf.missing_keys(config))
        OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        raise _explain(error, schema, source) from error
    if unset:
        where = "" if source == COMMAND_LINE else f"in {source} or "
        raise UserError(f"no value for {', '.join(unset)}: set it {where}on the command line")
    check_limits(config)
    _resolve_paths(config, given, source)
    return config


def load_config(schema_class: type, description: str, argv: Sequence[str] | None = None, from_file: bool = True) -> Any:
    """Read a script's command line: `config=FILE` and `dotted.key=value` overrides.

    from_file: False for a program whose settings are all on the command line; `config` is a key like any other then.

    Returns an instance of `schema_class`. Its class attribute `replaced_keys`, if it has one, says for keys of
    published configurations what takes their place; `flags` says which key `--flag VALUE` sets. `--help` prints every
    key with its value and explanation.
    Raises UserError with one line for anything wrong.
    """
    argv = sys.argv[1:] if argv is None else argv
    wants_help = bool({"-h", "--help"} & set(argv))
    path, overrides, flags = None, [], getattr(schema_class, "flags", {})
    for item in (rest := iter(argv)):
        if (flag := item.partition("=")[0]) in flags:
            item = f"{flags[flag]}={item.partition('=')[2] if '=' in item else next(rest, '')}"
        key, equals, value = item.partition("=")
        if key == "config" and from_file:
            path = value
        elif equals and key and not key.startswith("-"):
            overrides.append(item)
        elif item not in ("-h", "--help"):
            raise UserError(f"cannot read the argument '{item}': expected config=FILE or dotted.key=value")
    if wants_help:
        given = read_yaml(path) if path else OmegaConf.create()
        print(f"{description}\n\nusage: {'config=FILE.yaml ' * from_file}[dotted.key=value ...]\n")
        print("\n".join(help_lines(OmegaConf.merge(_schema(schema_class, given, overrides), given))))
        sys.exit(0)
    if not from_file:
        return OmegaConf.to_object(compose(schema_class, OmegaConf.create(), overrides, COMMAND_LINE))
    if path is None:
        raise UserError("no configuration: start with config=FILE, for instance config=configs/alitok_b.yaml")
    return OmegaConf.to_object(compose(schema_class, read_yaml(path), overrides, path))


def help_lines(config: DictConfig, indent: int = 0) -> Iterator[str]:
    """The configuration as YAML with each option's explanation and range as a comment."""
    settings_class, margin = OmegaConf.get_type(config), " " * indent
    for name in config:
        comment = _explanation(settings_class, name)
        missing = OmegaConf.is_missing(config, name)
        if not missing and isinstance(config[name], DictConfig):
            yield f"{margin}{name}:" + (f"  # {comment}" if comment else "")
            yield from help_lines(config[name], indent + 2)
            continue
        entry_class = _entry_class(settings_class, name)
        if entry_class is not None:
            yield f"{margin}{name}:  # {comment}; each has"
            yield from (f"{margin}  # {f.name}: {_explanation(entry_class, f.name)}" for f in fields(entry_class))
            yield from (f"{margin}  - {_as_yaml(entry)}" for entry in OmegaConf.to_container(config[name]))
            continue
        value = "???" if missing else _as_yaml(OmegaConf.to_container(config)[name])
        line = f"{margin}{name}: {value}"
        yield f"{line:<{HELP_COLUMN - 1}} # {comment}" if comment else line


def _explanation(settings_class: Any, name: str) -> str:
    metadata = option_metadata(settings_class, name) if is_dataclass(settings_class) else {}
    ranges = describe_limits(metadata)
    if "choices" in metadata:
        ranges.append(" | ".join(map(_as_yaml, metadata["choices"])))
    return metadata.get("help", "") + (f" ({', '.join(ranges)})" if ranges else "")


def _entry_class(settings_class: Any, name: str) -> Any:
    """The settings dataclass of the entries, if the field is a list of sections."""
    arguments = get_args(get_type_hints(settings_class)[name]) if is_dataclass(settings_class) else ()
    return arguments[0] if arguments and is_dataclass(arguments[0]) else None


def _as_yaml(value: Any) -> str:
    """A value in one line of YAML."""
    text = yaml.safe_dump(value, default_flow_style=True, width=sys.maxsize, sort_keys=False)
    return text.removesuffix("...\n").strip()


def flatten_keys(values: Any, key: str = "") -> dict[str, str]:
    """Values in nested dictionaries and lists by dotted key, as text."""
    if isinstance(values, list):
        values = dict(enumerate(values))
    if not isinstance(values, dict):
        return {key: str(values)}
    parts = [flatten_keys(value, f"{key}.{name}" if key else str(name)) for name, value in values.items()]
    return {name: text for part in parts for name, text in part.items()}


def check_limits(config: DictConfig | ListConfig, prefix: str = "") -> None:
    """Raise UserError for the first value outside the limits that its `option` declares."""
    settings_class = OmegaConf.get_type(config)
    for name in range(len(config)) if isinstance(config, ListConfig) else config:
        value, key = config[name], f"{prefix}{name}"
        if isinstance(value, DictConfig | ListConfig):
            check_limits(value, f"{key}.")
        if not is_dataclass(settings_class):
            continue
        metadata = option_metadata(settings_class, name)
        for number in value if isinstance(value, ListConfig) else [value]:
            if broken := broken_limit(number, metadata):
                raise UserError(f"{key} {broken}")
        if "choices" in metadata and value not in metadata["choices"]:
            raise UserError(
                f"{key} is '{value}'{nearest(str(value), map(str, metadata['choices']))}"
                f" (choose {' | '.join(map(str, metadata['choices']))})"
            )


def _resolve_paths(config: DictConfig, given: DictConfig, source: str, prefix: str = "") -> None:
    """Replace ~ in paths, and those in `given` by what `resolve_path` finds."""
    for name in config:
        value, key = config[name], f"{prefix}{name}"
        if isinstance(value, DictConfig):
            _resolve_paths(value, given, source, f"{key}.")
        elif isinstance(value, str) and (use := option_metadata(OmegaConf.get_type(config), name).get("path")):
            in_file = use == "read" and OmegaConf.select(given, key) == value
            value = str(Path(value).expanduser())
            config[name] = resolve_path(value, source) if in_file else value


def _schema(schema_class: type, given: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """The defaults, with the settings of the registered part that each registry section names."""
    schema = OmegaConf.structured(schema_class)
    for key, registry in registry_sections(schema_class).items():
        chosen = [item.partition("=")[2] for item in overrides if item.startswith(f"{key}.name=")]
        section = OmegaConf.select(given, key)
        name = chosen[-1] if chosen else registry.name_of(section if isinstance(section, DictConfig) else {})
        settings = OmegaConf.structured(registry.settings_class(name))
        OmegaConf.update(schema, key, settings, merge=False, force_add=True)
    return schema


def _override(config: DictConfig, item: str, schema: DictConfig) -> None:
    key, _, value = item.partition("=")
    try:
        parsed = _typed(config, key, value)
        if isinstance(OmegaConf.select(config, key), DictConfig) and parsed is None:
            raise UserError(f"'{item}' would empty a whole section; set its keys one by one")
        OmegaConf.update(config, key, parsed, merge=True)
    except OmegaConfBaseException as error:
        raise _explain(error, schema, COMMAND_LINE) from error
    except (yaml.YAMLError, ValueError, IndexError, TypeError) as error:
        raise UserError(f"cannot read the override '{item}' ({first_line(error)})") from error


def _typed(config: DictConfig, key: str, value: str) -> Any:
    """The value of an override: as typed if the key holds text, without quotes around it; else as in a YAML file."""
    parent, _, name = key.rpartition(".")
    owner = OmegaConf.get_type(OmegaConf.select(config, parent) if parent else config)
    hint = get_type_hints(owner).get(name) if is_dataclass(owner) else None
    if hint not in (str, str | None):
        return parse_yaml(value)
    quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
    return parse_yaml(value) if quoted or (value in ("", "null", "~") and hint is not str) else value


def _dotted_keys(node: DictConfig, prefix: str = "") -> list[str]:
    keys = []
    for key in node:
        keys.append(f"{prefix}{key}")
        if not OmegaConf.is_missing(node, key) and not OmegaConf.is_interpolation(node, key):
            value = node[key]
            keys += _dotted_keys(value, f"{prefix}{key}.") if isinstance(value, DictConfig) else []
    return keys


def _explain(error: OmegaConfBaseException, schema: DictConfig, source: str) -> UserError:
    key = error.full_key or ""
    replaced = getattr(OmegaConf.get_type(schema), "replaced_keys", {})
    if key in replaced:
        return UserError(f"configuration key '{key}' in {source} has no use here: {replaced[key]}")
    if "not in" in str(error):  # an unknown key: name the closest one of its section, else of all
        parent, _, leaf = key.rpartition(".")
        known = _dotted_keys(schema)
        siblings = [k for k in known if k.rpartition(".")[0] == parent]
        own_fields = getattr(error.object_type, "__dataclass_fields__", {})
        hint = nearest(key, siblings) or nearest(leaf, own_fields) or nearest(key, known)
        return UserError(f"unknown configuration key '{key}' in {source}{hint}")
    return UserError(f"configuration key '{key}' in {source}: {first_line(error)}")
