"""`python -m evaluation.reproduce` with toy models: sampling, checks, metrics, the printed row."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from evaluation import reproduce
from evaluation.reproduce import check_samples, launch
from evaluation.sample_checks import Expected
from modeling.frozen.small_classifier import Classifier, save_classifier
from tests.support import toy
from tests.support.paths import ROOT
from utils.atomic import read_json
from utils.errors import UserError

COUNT = 70


@pytest.fixture(scope="module")
def rows(tmp_path_factory, pretrained) -> Path:
    """A folder with a table of one row, `toy`, and the files that it names."""
    folder = tmp_path_factory.mktemp("rows")
    torch.manual_seed(0)
    save_classifier(folder / "c.safetensors", Classifier(toy.NUM_CLASSES), toy.IMAGE_SIZE, 0.5)
    shape = (100, toy.IMAGE_SIZE, toy.IMAGE_SIZE, 3)
    np.savez(folder / "reference.npz", arr_0=np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))
    for name in ("generator", "tokenizer"):
        shutil.copy(pretrained / name / "model.safetensors", folder / f"{name}.safetensors")
    row = {
        "model": "the toy",
        "config": str(pretrained / "ar.yaml"),
        "generator": "generator.safetensors",
        "tokenizer": "tokenizer.safetensors",
        "source": "here",
        "num_samples": COUNT,
        "reference": "toy",
        "classifier": "c.safetensors",
        "expected": {"fid": 1e6, "agreement": 0.5},
        "scatter": {"fid": 0.1, "agreement": 1.0},
    }
    reference = {"file": "reference.npz", "source": "nowhere", "images": 100}
    table = {"sources": {"here": "here"}, "references": {"toy": reference}, "rows": {"toy": row}}
    (folder / "rows.yaml").write_text(yaml.safe_dump(table))
    return folder


@pytest.mark.slow
def test_a_row_is_drawn_checked_evaluated_and_printed(program, rows, tmp_path):
    """Drawn once: the second call finds the samples."""
    arguments = ("toy", "--rows", rows / "rows.yaml", "--weights", rows, "--output", tmp_path)
    code, out, err = program("evaluation/reproduce.py", *arguments)
    assert code == 0, err
    assert f"{COUNT} images of 16x16, pixels " in out
    assert "reference" in out
    assert "100 images of 16x16" in out
    assert out.rstrip().splitlines()[-1].startswith("Class agreement")
    lines = {line.split("  ")[0]: line for line in out.splitlines()}
    assert "outside: -" in lines["FID"]
    assert "within it" in lines["Class agreement"]
    result = read_json(tmp_path / "toy.json")
    assert result["expected"] == {"fid": 1e6, "agreement": 0.5}
    assert result["ours"]["fid"] < 1e6
    with np.load(tmp_path / "toy.npz") as arrays:
        assert np.bincount(arrays["arr_1"]).tolist() == [18, 18, 17, 17]
        repeated = {"arr_0": np.repeat(arrays["arr_0"][:1], COUNT, 0), "arr_1": arrays["arr_1"]}
    np.savez(tmp_path / "toy.npz", **repeated)  # as if all processes had had one seed
    code, out, err = program("evaluation/reproduce.py", *arguments)
    assert code == 2
    assert f"error: no metrics: {COUNT - 1} of {COUNT} images are exact copies" in err


def test_statistics_of_another_network_are_refused_before_the_sampling(refusal, rows, tmp_path):
    np.savez(tmp_path / "inception.npz", mu=np.zeros(2048), sigma=np.eye(2048))
    arguments = ("toy", "--rows", rows / "rows.yaml", "--weights", rows, "--output", tmp_path / "out")
    line = refusal("evaluation/reproduce.py", *arguments, "--reference", tmp_path / "inception.npz")
    assert "has statistics of 2048 pool features" in line
    assert not (tmp_path / "out").exists()


def test_unfit_samples_are_refused_before_any_metric(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (10, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "s.npz", arr_0=images, arr_1=np.arange(10) % 5)
    check_samples(tmp_path / "s.npz", Expected(10, 8, 5))
    with pytest.raises(
        UserError, match=r"no metrics: there are 10 images, .* 50000: FID depends on it; images are 8x8"
    ):
        check_samples(tmp_path / "s.npz", Expected(50000, 16, 5))


def test_what_is_missing_is_told_before_the_sampling(refusal, monkeypatch, tmp_path):
    line = refusal("evaluation/reproduce.py", "titok_l32")
    assert "generator_titok_l32.bin and tokenizer_titok_l32.bin from the hub repository fun-research/TiTok" in line
    assert "did you mean 'rar_xl'" in refusal("evaluation/reproduce.py", "rar_xlx")
    assert "--list prints all" in refusal("evaluation/reproduce.py")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "run it with python and --processes" in refusal("evaluation/reproduce.py", "alitok_b")


def test_the_rows_are_listed(program):
    _, out, _ = program("evaluation/reproduce.py", "--list")
    names = [line.split()[0] for line in out.splitlines()]
    assert names[:3] == ["alitok_b", "alitok_l", "alitok_xl"]
    assert names[-1] == "quickstart"


def test_a_command_that_fails_ends_the_reproduction(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(ROOT)
    for code, hint in ((3, "run the same command to resume"), (2, "its message is above")):
        (tmp_path / "script.py").write_text(f"import sys; sys.exit({code})")
        with pytest.raises(UserError, match=rf"script.py ended with exit code {code}; {hint}"):
            launch(1, tmp_path / "script.py")
    assert "script.py" in capfd.readouterr().out
    assert reproduce.EVALUATOR in {str(p.relative_to(ROOT)) for p in (ROOT / "guided-diffusion").rglob("*.py")}
