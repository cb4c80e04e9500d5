"""guided-diffusion/evaluations/evaluator.py as a command."""

import json
import runpy
import sys

import numpy as np
import pytest

from tests.support.launch import run
from tests.support.paths import ROOT

EVALUATOR = "guided-diffusion/evaluations/evaluator.py"


@pytest.mark.slow
def test_several_processes_give_the_same_numbers(files, tmp_path):
    results = []
    for processes in (1, 2):
        output = run(
            *(EVALUATOR, files / "reference.npz", files / "samples.npz", "--classifier", files / "c.safetensors"),
            *("--batch_size", 32, "--metrics", "is,fid,sfid,pr,kid", "--bootstrap", 10),
            *("--json", tmp_path / f"{processes}.json"),
            processes=processes,
        )
        results.append(json.loads((tmp_path / f"{processes}.json").read_text()))
        names = [line.split(": ")[0] for line in output.stdout.strip().splitlines() if ": " in line][-5:]
        assert names == ["Inception Score", "FID", "sFID", "Precision", "Recall"]
        assert "KID: " in output.stdout
        assert "95 % interval" in output.stdout
    assert results[0].pop("features") == results[1].pop("features")
    assert results[0] == pytest.approx(results[1], rel=1e-5)
    assert results[0]["fid_low"] < results[0]["fid_high"]


@pytest.fixture
def error(monkeypatch, capfd, tmp_path):
    """error(*arguments) -> the evaluator's one error line, exit code 2 checked. No Inception weights exist."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("torch.hub.download_url_to_file", lambda *_, **__: pytest.fail("tried to download"))

    def call(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", [EVALUATOR, *map(str, arguments)])
        monkeypatch.setattr(sys, "path", list(sys.path))
        with pytest.raises(SystemExit) as caught:
            runpy.run_path(str(ROOT / EVALUATOR), run_name="__main__")
        assert caught.value.code == 2
        lines = capfd.readouterr().err.strip().splitlines()
        assert lines[-1].startswith("error: ")
        assert not any("Traceback" in line for line in lines)
        return lines[-1]

    return call


def test_faulty_files_are_found_before_inception_is_looked_for(error, files, tmp_path):
    good = files / "samples.npz"
    assert error(good, tmp_path / "none.npz") == f"error: file not found: {tmp_path / 'none.npz'}"
    assert error(tmp_path / "none.npz", good) == f"error: file not found: {tmp_path / 'none.npz'}"
    assert "unknown metric 'fdi'" in error(good, good, "--metrics", "is,fdi")
    assert "agreement needs arr_1" in error(good, good, "--metrics", "agreement")
    np.savez(tmp_path / "labelled.npz", arr_0=np.zeros((5, 8, 8, 3), np.uint8), arr_1=np.zeros(5, np.int64))
    assert "agreement needs --classifier" in error(good, tmp_path / "labelled.npz", "--metrics", "agreement")


def test_faulty_files_are_named(error, files, tmp_path):
    good, wrong = files / "samples.npz", tmp_path / "wrong.npz"
    use = ("--classifier", files / "c.safetensors")
    np.savez(wrong, arr_0=np.zeros((5, 8, 8, 3), np.float32))
    assert "images are uint8" in error(good, wrong, *use)
    np.savez(wrong, other=np.zeros(3))
    assert "no array 'arr_0'" in error(good, wrong, *use)
    np.savez(wrong, arr_0=np.zeros((3, 8, 8, 3), np.uint8))
    assert "has 3 images; more than 3 are needed" in error(good, wrong, *use)
    wrong.write_bytes(good.read_bytes()[:300])
    assert "damaged or not an .npz" in error(good, wrong, *use)
    assert "is not a file of evaluation/train_classifier.py" in error(good, good, "--classifier", good)
    assert "file not found" in error(good, good, "--inception", tmp_path / "none.pth")
