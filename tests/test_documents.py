"""What the documents name exists: files of README's tree, links and their headings, paths, pinned versions."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from tests.support.paths import ROOT

DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "tests" / "parity" / "README.md"]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
PATH = re.compile(r"`((?:[\w-]+/)+[\w-]+\.(?:py|md|yaml))`")
FOLDERS_OF_RUNS = ("cache_alitok/", "data/", "output/", "weights/", "modeling/NAME/", "sampling/NAME")


def without_code(text: str) -> str:
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


def anchors(document: Path) -> set[str]:
    """The fragments that lead to headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", without_code(document.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def tree(text: str) -> Iterator[Path]:
    """The paths in README's tree: names at the start of each line, below the folder with a smaller indent."""
    block = text.split("## Where is what")[1].split("```")[1]
    folders: dict[int, Path] = {}
    for line in block.strip("\n").splitlines():
        indent = len(line) - len(line.lstrip())
        parent = folders.get(indent - 2, Path()) if indent else Path()
        names = re.match(r"\s*((?:\S+(?:\.py|/)(?:\s+|$))*)", line)[1].split()
        assert names, line
        for name in names:
            yield parent / name
        folders[indent] = parent / names[-1]


def test_the_tree_of_the_readme():
    paths = list(tree((ROOT / "README.md").read_text()))
    assert len(paths) > 50
    assert [str(path) for path in paths if not (ROOT / path).exists()] == []
    rooms = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert rooms - {path.name for path in paths if len(path.parts) == 1} == set()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_and_paths(document):
    text = document.read_text()
    for target in LINK.findall(without_code(text)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, fragment = target.partition("#")
        linked = document.parent / name if name else document
        assert linked.exists(), target
        if fragment:
            assert fragment in anchors(linked), target
    for path in PATH.findall(text):
        if not path.startswith(FOLDERS_OF_RUNS):
            assert any((folder / path).exists() for folder in (ROOT, document.parent, ROOT / "docs")), path


def requirements(name: str) -> list[Requirement]:
    """The lines of a file; pyproject.toml reads them as well and takes no options such as -r."""
    lines = (line.partition("#")[0].strip() for line in (ROOT / name).read_text().splitlines())
    return [Requirement(line) for line in lines if line]


def test_versions_that_were_tested():
    """The lock file pins what the requirements ask for, within their limits, and nothing of one machine's GPU."""
    pinned = {pin.name.lower().replace("_", "-"): pin.specifier for pin in requirements("requirements-lock.txt")}
    files = re.findall(r"requirements[\w-]*\.txt", (ROOT / "pyproject.toml").read_text())
    assert set(files) == {"requirements.txt", "requirements-demo.txt", "requirements-dev.txt"}
    for wanted in (line for file in files for line in requirements(file)):
        (version,) = pinned[wanted.name.lower().replace("_", "-")]
        assert version.operator == "=="
        assert wanted.specifier.contains(version.version), wanted
    assert [name for name in pinned if name.startswith(("nvidia", "cuda", "triton"))] == []


def test_modules_of_the_project():
    """Every script at the top is a module of the installed project."""
    listed = re.search(r"py-modules = \[(.*?)\]", (ROOT / "pyproject.toml").read_text(), re.DOTALL)[1]
    assert sorted(re.findall(r'"(\w+)"', listed)) == sorted(path.stem for path in ROOT.glob("*.py"))


def test_citation():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert citation["preferred-citation"]["title"] in (ROOT / "README.md").read_text()
    assert (ROOT / "LICENSE").read_text().split()[:2] == ["Apache", "License"]
    assert citation["license"] == "Apache-2.0"
