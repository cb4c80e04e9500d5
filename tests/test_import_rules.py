"""Rooms and the rooms below them: no import upwards, no circle, no family outside its folder."""

import ast
from pathlib import Path

from tests.support.paths import ROOT

# Each room may import from itself and from the rooms listed for it.
ALLOWED = {
    "utils": set(),
    "modeling": {"utils"},
    "training": {"utils"},
    "sampling": {"modeling", "utils"},
    "dataset": {"modeling", "utils"},
    "evaluation": {"sampling", "dataset", "modeling", "utils"},
    "demo": {"sampling", "dataset", "modeling", "utils"},
    "train_tokenizer": {"training", "evaluation", "dataset", "modeling", "utils"},
    "hub": {"training", "sampling", "dataset", "modeling", "utils"},
    "train_generator": {"training", "evaluation", "sampling", "dataset", "modeling", "utils"},
}
FAMILIES = ("alitok", "maskgit", "maskgit_vq", "rar", "titok")


def modules(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Dotted names of the modules that a file imports, in functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module)
    return names


def test_rooms_import_only_from_rooms_below():
    rooms = {*ALLOWED, "experiments", "benchmarks", "tests"}
    for room, allowed in ALLOWED.items():
        for path in modules(room):
            others = {name.split(".")[0] for name in imported(path)} & rooms - {room}
            assert others <= allowed, f"{path.relative_to(ROOT)} imports {others - allowed}"


def test_no_file_imports_itself_through_others():
    graph = {}
    for room in ALLOWED:
        for path in modules(room):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            graph[name] = imported(path)
    finished: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, " -> ".join([*above, name])
        if name not in finished:
            for other in graph[name] & graph.keys():
                visit(other, (*above, name))
            finished.add(name)

    for name in graph:
        visit(name, ())


def test_families_are_known_only_in_their_folders():
    """A family is found by its name in a configuration; only its registration names its module."""
    for room in ALLOWED:
        for path in modules(room):
            for family in FAMILIES:
                if f"modeling/{family}/" not in path.as_posix():
                    assert not any(f"{name}.".startswith(f"modeling.{family}.") for name in imported(path)), path


def test_no_family_is_told_by_its_class_or_attributes():
    """What a model can do is said by its interface, not found out by looking at it."""
    rooms = ("training", "sampling", "dataset", "evaluation", "demo", "train_tokenizer", "train_generator", "hub")
    for room in rooms:
        for path in modules(room):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and ast.unparse(node.func) in ("isinstance", "hasattr", "getattr"):
                    asked = ast.unparse(node.args[0])
                    known = any(word in asked for word in ("tokenizer", "generator", "model"))
                    assert not known, f"{path}:{node.lineno}: {ast.unparse(node)}"


def test_progress_bars_are_those_of_utils():
    """tqdm's own write bars and carriage returns into files."""
    for path in (path for room in ("*.py", *(f"{room}/**/*.py" for room in ALLOWED)) for path in ROOT.glob(room)):
        assert "tqdm" not in imported(path) or path == ROOT / "utils" / "progress.py", path
