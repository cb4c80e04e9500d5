"""Names of exchangeable parts -> their settings dataclass and their class."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from utils.errors import UserError, nearest


class Registry:
    """Parts of one kind by name. A part registers itself when its module is imported."""

    def __init__(self, kind: str, modules: Mapping[str, str], default: str, unnamed: Mapping[str, str] | None = None):
        """kind: for messages; modules: name -> module that registers it, imported on first use.

        default: the part of a section without a name; unnamed: key -> the part of a section without a name that
        has this key, for published configuration files.
        """
        self.kind = kind
        self.default = default
        self._unnamed = dict(unnamed or {})
        self._modules = dict(modules)
        self._entries: dict[str, tuple[type, Callable[..., Any]]] = {}

    def register(self, name: str, settings_class: type) -> Callable:
        """Class decorator: `name` in a configuration means this class, with settings of `settings_class`."""

        def add(part_class):
            self._entries[name] = (settings_class, part_class)
            return part_class

        return add

    def name_of(self, section: Mapping[str, Any]) -> str:
        """The part that a section of a configuration file is about."""
        known = (name for key, name in self._unnamed.items() if key in section)
        return section.get("name") or next(known, self.default)

    def _entry(self, name: str) -> tuple[type, Callable[..., Any]]:
        if name not in self._entries:
            known = sorted({*self._entries, *self._modules})
            if name not in self._modules:
                raise UserError(f"unknown {self.kind} '{name}'{nearest(name, known)} (known: {', '.join(known)})")
            import_module(self._modules[name])
        return self._entries[name]

    def settings_class(self, name: str) -> type:
        return self._entry(name)[0]

    def part_class(self, name: str) -> Any:
        return self._entry(name)[1]

    def build(self, name: str, *arguments: Any, **options: Any) -> Any:
        """Call the class. A ValueError of its constructor becomes a UserError."""
        try:
            return self.part_class(name)(*arguments, **options)
        except ValueError as error:
            raise UserError(f"{self.kind} '{name}': {error}") from error
