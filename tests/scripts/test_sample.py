"""sample.py writes a grid of chosen classes."""

import pytest
from PIL import Image

from tests.support import toy
from tests.support.launch import run


@pytest.mark.slow
def test_sample_as_a_command(pretrained, tmp_path):
    output = tmp_path / "grid.png"
    grid = ("sample.py", pretrained / "hub", "--output", output, "--per_class", 3)
    result = run(*grid, "--classes", "0,2", "--temperature", 0.5, "--top_k", 8)
    assert "(0)" in result.stdout
    assert "(2)" in result.stdout
    scale = 96 // toy.IMAGE_SIZE
    assert Image.open(output).size == (scale * (3 * (toy.IMAGE_SIZE + 2) + 2), scale * (2 * (toy.IMAGE_SIZE + 2) + 2))
    completed = tmp_path / "completed.png"
    run(*grid, "--classes", "0,2", "--complete", output, "--keep", 4, "--output", completed)
    assert Image.open(completed).size == Image.open(output).size
    missing = run(*grid, "--classes", "0", "--complete", tmp_path / "none.png", "--keep", 4, check=False)
    assert missing.returncode == 2
    assert f"image not found: {tmp_path / 'none.png'}" in missing.stderr
    wrong = run(*grid, "--classes", "tench", check=False)
    assert wrong.returncode == 2
    assert f"no class of {pretrained / 'hub'} is named 'tench'" in wrong.stderr
