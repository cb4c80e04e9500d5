"""YAML files whose plain words stay text: the declared type of a key converts them, not YAML's guess.

YAML alone reads 001 as 1, 2024_11_21 as 20241121, 12:30:45 as 45045 and on as true.
"""

import re
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from utils.errors import UserError, nearest

KEPT_TAGS = ("tag:yaml.org,2002:null", "tag:yaml.org,2002:merge")


class _TextLoader(yaml.SafeLoader):
    """Scalars are strings, or None for null, ~ and nothing. A key that comes twice is an error."""

    yaml_implicit_resolvers = {
        first: [pair for pair in pairs if pair[0] in KEPT_TAGS]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        names = [key.value for key, _ in node.value]
        repeated = next((key for i, (key, _) in enumerate(node.value) if key.value in names[:i]), None)
        if repeated is not None:
            raise yaml.constructor.ConstructorError(None, None, f"'{repeated.value}' twice", repeated.start_mark)
        return super().construct_mapping(node, deep)

    def construct_scalar(self, node: yaml.ScalarNode) -> Any:
        end = node.end_mark
        comment = end.buffer and re.match(r"[ \t]+(#[^\s#]\S*)", end.buffer[end.pointer :])
        if comment and node.style is None and not re.fullmatch(r"[\d.eE+-]*|true|false|null|~", node.value):
            what = f"is '{comment[1]}' a part of '{node.value}'? Put the text in quotes, or a space after the #"
            raise yaml.constructor.ConstructorError(None, None, what, node.start_mark)
        return super().construct_scalar(node)


def parse_yaml(text: str) -> Any:
    """Mappings, lists, strings and None. Raises yaml.YAMLError."""
    return yaml.load(text, _TextLoader)


def _base_path(path: Path, base: Any, above: tuple[Path, ...]) -> Path:
    """The file that the key `base` of a YAML file names. above: the files that led to this one. Raises UserError."""
    if not isinstance(base, str):
        raise UserError(f"{path}: base is {base}: name one YAML file, as text")
    found = path.parent / Path(base).expanduser()
    if found.resolve() in (other.resolve() for other in (path, *above)):
        raise UserError(f"{path}: base {base} leads back to this file: name another one")
    return found


def read_yaml(path: str | Path, above: tuple[Path, ...] = ()) -> DictConfig:
    """A YAML file merged over the file that its key `base` names, relative to its own folder. Raises UserError.

    above: the files that are based on it.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        hint = nearest(str(path), [str(p) for p in Path("configs").rglob("*.yaml")])
        raise UserError(f"configuration file not found: {path}{hint}")
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"))
        loaded = OmegaConf.create({} if content is None else content)
    except (OSError, yaml.YAMLError, OmegaConfBaseException, ValueError) as error:
        raise UserError(f"{path} is no valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(loaded, DictConfig):
        raise UserError(f"{path} holds no mapping of keys")
    base = loaded.pop("base", None)
    if base is None:
        return loaded
    return OmegaConf.merge(read_yaml(_base_path(path, base, above), (path, *above)), loaded)


def with_bases(path: str | Path, above: tuple[Path, ...] = ()) -> list[Path]:
    """A YAML file and the files that it is based on; empty if there is no such file. above: see `read_yaml`."""
    path = Path(path).expanduser()
    if not path.is_file():
        return []
    base = (parse_yaml(path.read_text(encoding="utf-8")) or {}).get("base")
    return [path] if base is None else [path, *with_bases(_base_path(path, base, above), (path, *above))]


def resolve_path(value: str, source: str | Path) -> str:
    """A path that the YAML file `source` states: from here or, if nothing is there, from the folder of the file
    or of a file that it is based on, if something is there."""
    if Path(value).exists():
        return value
    found = (path.parent / value for path in with_bases(source) if (path.parent / value).exists())
    return str(next(found, value))
