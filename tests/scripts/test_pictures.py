"""docs/your_data.md: its commands at toy size, on pictures without class folders and with them."""

import json
import shlex
from functools import reduce
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dataset.decode import read_rgb
from modeling.build import load_pretrained_generator
from tests.support.launch import run_here
from tests.support.paths import ROOT
from training.logging import read_log
from utils.weights import read_state_dict

pytestmark = pytest.mark.slow

DOCUMENT = ROOT / "docs" / "your_data.md"
TOKENIZER = (
    "model.vq_model.codebook_size=16",
    "model.vq_model.token_size=8",
    "model.vq_model.image_size=16",
    "model.vq_model.patch_size=8",
    *(f"model.vq_model.{part}.{key}" for part in ("encoder", "decoder") for key in ("width=16", "num_layers=1")),
    *(f"model.vq_model.{part}.num_heads=2" for part in ("encoder", "decoder")),
)
COMMON = (
    "dataset.params.num_workers_per_gpu=0",
    "training.per_gpu_batch_size=4",
    "training.mixed_precision=no",
    "training.enable_wandb=false",
    "experiment.eval_every=100",
)
PHASES = "phases=[{name: mse, steps: 4, learning_rate: 1e-3, clustering: %s}]"
GENERATOR = [f"model.generator.{key}" for key in ("hidden_size=16", "num_hidden_layers=1", "num_attention_heads=2")]
STAGE1 = (*TOKENIZER, *COMMON, PHASES % "true")
FINAL_TOKENIZER = (*TOKENIZER, "model.vq_model.decoder.num_learned_tokens=4")
STAGE2 = (*FINAL_TOKENIZER, *COMMON, PHASES % "false")
AR = (*FINAL_TOKENIZER, *COMMON, *GENERATOR, "training.max_train_steps=4", "experiment.generate_every=2")


def commands(block: int) -> list[list[str]]:
    """The words of the commands in a block of the page, without "python"."""
    text = DOCUMENT.read_text().split("```bash\n")[1 + block].split("```")[0]
    return [shlex.split(line)[1:] for line in text.replace("\\\n", "").splitlines()]


def write_pictures(folder: Path, names: list[str]) -> None:
    """PNG files of several sizes."""
    rng = np.random.default_rng(0)
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        size = (int(rng.integers(9, 50)), int(rng.integers(9, 50)), 3)
        Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8)).save(path)


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    """A working directory in which the three commands ran on 22 pictures in one folder."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "configs").symlink_to(ROOT / "configs")
    write_pictures(folder / "my pictures", [f"{i}.png" for i in range(22)])
    with pytest.MonkeyPatch.context() as monkeypatch:
        for (script, *words), sizes in zip(commands(0)[:3], (STAGE1, STAGE2, AR), strict=True):
            words = [word.replace("FOLDER", "my pictures") for word in words]
            run_here(monkeypatch, script, *words, *sizes, folder=folder)
    return folder


def test_three_commands(work, monkeypatch):
    for name in ("tokenizer_stage1", "tokenizer_stage2", "ar"):
        assert (work / "output" / "pictures" / name / "model.safetensors").is_file()
    assert any("val_loss" in row for row in read_log(work / "output" / "pictures" / "ar"))
    record = json.loads((work / "output" / "pictures" / "ar" / "training.json").read_text())
    assert (record["data"]["num_images"], record["data"]["classes"]) == (20, ["all"])
    script, *words = commands(0)[3]
    run_here(monkeypatch, script, *words, folder=work)
    assert read_rgb(work / "samples.png").width >= 16 * 8


def test_fine_tuning_on_other_classes(work, monkeypatch):
    """The page's commands, from the weights of the three commands in place of the published ones."""
    write_pictures(work / "classes", [f"{name}/{i}.png" for name in ("cats", "dogs", "owls") for i in range(6)])
    given = {
        "FOLDER": "classes",
        "NUMBER": "3",
        "weights/AliTok.pth": "output/pictures/tokenizer_stage2/model.safetensors",
        "weights/alitok_b.bin": "output/pictures/ar/model.safetensors",
    }
    toy_encoding = ("--img_size", "16", "--tokenizer_config", "output/mine/tokenizer", "--num_workers", "0")
    for (script, *words), sizes in zip(commands(1), (STAGE2, toy_encoding, AR), strict=True):
        words = [reduce(lambda word, pair: word.replace(*pair), given.items(), word) for word in words]
        run_here(monkeypatch, script, *words, *sizes, folder=work)
    start, tuned = (load_pretrained_generator(work / "output" / name / "ar") for name in ("pictures", "mine"))
    assert (start.num_classes, tuned.num_classes) == (1, 3)
    weights, before = tuned.output.weight, start.output.weight
    assert 0 < (weights - before).abs().max() < 0.01  # a few steps away from where it started
    frozen = [read_state_dict(work / "output" / name) for name in ("pictures/tokenizer_stage2", "mine/tokenizer")]
    assert torch.equal(*(state["quantize.embedding.weight"] for state in frozen))
