"""docs/your_data.md: a folder of pictures without class folders, three commands, and a picture of the result."""

import shlex

import numpy as np
import pytest
from PIL import Image

from dataset.decode import read_rgb
from tests.support.launch import run_here
from tests.support.paths import ROOT
from training.logging import read_log

pytestmark = pytest.mark.slow

DOCUMENT = ROOT / "docs" / "your_data.md"
TOKENIZER = (
    "model.vq_model.codebook_size=16",
    "model.vq_model.image_size=16",
    *(f"model.vq_model.{part}.{key}" for part in ("encoder", "decoder") for key in ("width=16", "num_layers=1")),
    *(f"model.vq_model.{part}.num_heads=2" for part in ("encoder", "decoder")),
)
COMMON = ("dataset.params.num_workers_per_gpu=0", "training.per_gpu_batch_size=4", "training.mixed_precision=no")
PHASES = "phases=[{name: mse, steps: 4, learning_rate: 1e-3, clustering: %s}]"
GENERATOR = [f"model.generator.{key}" for key in ("hidden_size=16", "num_hidden_layers=1", "num_attention_heads=2")]
SIZES = {  # output folder -> overrides at toy size
    "tokenizer_stage1": (*TOKENIZER, *COMMON, PHASES % "true"),
    "tokenizer_stage2": (*TOKENIZER, *COMMON, PHASES % "false"),
    "ar": (*TOKENIZER, *COMMON, *GENERATOR, "training.max_train_steps=4", "experiment.generate_every=2"),
}


def documented_commands() -> list[list[str]]:
    """The words of the commands in the page's first code block."""
    block = DOCUMENT.read_text().split("```bash\n")[1].split("```")[0]
    return [shlex.split(line) for line in block.replace("\\\n", "").splitlines()]


@pytest.fixture
def pictures(tmp_path):
    """22 PNG files of several sizes in one folder."""
    rng = np.random.default_rng(0)
    (tmp_path / "my pictures").mkdir()
    for i in range(22):
        size = (int(rng.integers(9, 50)), int(rng.integers(9, 50)), 3)
        Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8)).save(tmp_path / "my pictures" / f"{i}.png")
    return tmp_path / "my pictures"


def test_three_commands(pictures, tmp_path, monkeypatch, capfd):
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    *trainings, sample = documented_commands()
    assert [words[1].split("/")[-1] for words in trainings] == [
        "train_tokenizer.py",
        "train_tokenizer.py",
        "train_ar.py",
    ]
    for words, (name, sizes) in zip(trainings, SIZES.items(), strict=True):
        arguments = [word.replace("FOLDER", str(pictures)) for word in words[2:]]
        run_here(monkeypatch, words[1], *arguments, *sizes, folder=tmp_path)
        assert (tmp_path / "output" / "pictures" / name / "model.safetensors").is_file()
    assert "of its 22 images 2 are for validation, 20 for training" in capfd.readouterr().err
    rows = read_log(tmp_path / "output" / "pictures" / "ar")
    assert any("val_loss" in row for row in rows)
    run_here(monkeypatch, sample[1], *sample[2:], folder=tmp_path)
    assert read_rgb(tmp_path / "samples.png").size[0] >= 16 * 8
