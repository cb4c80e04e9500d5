"""docs/adding_a_family.md: the code of the page joins the registries, trains, and draws images."""

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from modeling.build import load_pretrained_tokenizer
from sampling.pipeline import Pipeline
from tests.support import toy
from tests.support.paths import ROOT
from train_generator.config import ARConfig
from train_generator.trainer import GeneratorTrainer
from train_tokenizer.config import TokenizerConfig
from train_tokenizer.trainer import TokenizerTrainer
from training.logging import read_log
from utils.config import load_config

DOCUMENT = ROOT / "docs" / "adding_a_family.md"
MAX_LINES = 150  # of both modules, without empty lines, comments and docstrings
MODEL = {
    "vq_model": {"name": "patches", "image_size": 16, "patch_size": 4, "codebook_size": 32},
    "generator": {"name": "mixer", "condition_num_classes": toy.NUM_CLASSES},
}


def modules() -> dict[str, str]:
    """Path in the repository -> text, of each block of code that begins with its path."""
    blocks = re.findall(r"```python\n# (\S+)\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    return dict(blocks)


@pytest.fixture
def family(monkeypatch) -> None:
    """The page's modules, registered."""
    for path, text in modules().items():
        name = path.removesuffix(".py").replace("/", ".")
        module = ModuleType(name)
        monkeypatch.setitem(sys.modules, name, module)
        exec(compile(text, path, "exec"), vars(module))


def test_the_page_is_short():
    lines = [line for text in modules().values() for line in text.splitlines() if line.strip()]
    assert {*modules()} == {"modeling/patches/tokenizer.py", "modeling/patches/generator.py"}
    assert 100 < len(lines) <= MAX_LINES


def with_models(path: Path, *sections: str) -> Path:
    """A toy YAML file with the models of the page."""
    config = yaml.safe_load(path.read_text()) | {"model": {name: MODEL[name] for name in sections}}
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.mark.slow
def test_the_family_trains_and_draws(family, tmp_path):
    toy.write_images(tmp_path / "images", per_class=4)
    data = f"dataset.params.data_path={tmp_path / 'images'}"
    arguments = [
        f"config={with_models(toy.write_tokenizer_config(tmp_path / 't.yaml', 1), 'vq_model')}",
        f"experiment.output_dir={tmp_path / 'tokenizer'}",
        data,
        "phases=[{name: mse, steps: 60, learning_rate: 1e-2, clustering: true}]",
        "experiment.eval_every=100",
        "experiment.log_every=20",
    ]
    TokenizerTrainer(load_config(TokenizerConfig, "", arguments)).run()
    errors = [row["reconstruction"] for row in read_log(tmp_path / "tokenizer") if "reconstruction" in row]
    assert errors[-1] < 0.5 * errors[0]
    arguments = [
        f"config={with_models(toy.write_ar_config(tmp_path / 'ar.yaml'), 'vq_model', 'generator')}",
        f"experiment.output_dir={tmp_path / 'ar'}",
        f"experiment.tokenizer_checkpoint={tmp_path / 'tokenizer' / 'model.safetensors'}",
        data,
        "dataset.params.pretokenization=null",
        "experiment.eval_every=100",
        "experiment.generate_every=0",
        "training.max_train_steps=60",
        "optimizer.params.learning_rate=1e-2",
    ]
    GeneratorTrainer(load_config(ARConfig, "", arguments)).run()
    losses = [row["loss"] for row in read_log(tmp_path / "ar") if "loss" in row]
    assert losses[-1] < 0.8 * losses[0]
    pipeline = Pipeline.from_pretrained(tmp_path / "ar")
    images = pipeline.generate([0, 1, 2, 3])
    assert images.shape == (4, 3, 16, 16)
    assert (images[0] - images[3]).abs().max() > 0.1
    assert load_pretrained_tokenizer(tmp_path / "ar").encode(images).shape == (4, 16)
