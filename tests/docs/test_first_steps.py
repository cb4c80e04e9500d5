"""docs/first_steps.ipynb runs, and holds the pictures that it draws."""

from pathlib import Path

import pytest

from tests.support.launch import ENVIRONMENT
from tests.support.paths import ROOT

NOTEBOOK = ROOT / "docs" / "first_steps.ipynb"
MAX_BYTES = 400_000


def pictures(notebook) -> list[int]:
    """How many pictures each cell with code shows."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [sum("image/png" in output.get("data", {}) for output in cell.outputs) for cell in cells]


def read_notebook():
    nbformat = pytest.importorskip("nbformat")
    return nbformat.read(NOTEBOOK, as_version=4)


def test_the_committed_notebook_shows_its_pictures():
    assert pictures(read_notebook()) == [0, 0, 0, 1, 1, 1, 1, 1, 1]
    assert NOTEBOOK.stat().st_size < MAX_BYTES


@pytest.mark.slow
def test_the_notebook_runs(pretrained: Path, monkeypatch):
    """With toy models, from the folder in which Jupyter starts it."""
    nbclient = pytest.importorskip("nbclient")
    notebook = read_notebook()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    environment = ENVIRONMENT | {"MODEL": str(pretrained / "hub")}
    client = nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(NOTEBOOK.parent)}})
    client.execute(env=environment)
    assert pictures(notebook) == [0, 0, 0, 1, 1, 1, 1, 1, 1]
    assert not any(output.get("name") == "stderr" for cell in notebook.cells for output in cell.get("outputs", []))
