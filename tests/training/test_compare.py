"""A training's curves against those of a reference."""

import json
import shutil
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tests.support.trainings import generator_trainer
from train_generator.config import ARConfig
from training.compare import CurveWatch, ReferenceCurves
from training.logging import read_log
from utils.config import load_config
from utils.errors import UserError

CURVES = ROOT / "docs" / "reference_curves"
REFERENCES = ("fashion_mnist_ar", "fashion_mnist_tokenizer_stage1", "fashion_mnist_tokenizer_stage2")


def write_log(folder: Path, rows: list[dict], band: str = "") -> Path:
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if band:
        (folder / "band.yaml").write_text(band)
    return folder


def falling(factor: float = 1.0) -> list[dict]:
    """loss 100 / step at steps 10, 20, ..., 400, and two validations."""
    rows = [{"step": step, "loss": factor * 100 / step} for step in range(10, 401, 10)]
    return [*rows, *({"step": step, "val_loss": factor * 100 / step} for step in (200, 400))]


BAND = "slack: 0.1\nstart: 40\ncurves:\n  loss: {relative: 0.1}\n  val_loss: {absolute: 0.05}\n"


@pytest.fixture
def reference(tmp_path) -> ReferenceCurves:
    return ReferenceCurves(write_log(tmp_path / "reference", falling(), BAND))


def lines(reference: ReferenceCurves, rows: list[dict]) -> list[str]:
    watch = CurveWatch(reference)
    return [line for row in rows for line in watch.add(row["step"], row)]


def test_the_band_has_the_stated_width(reference):
    """The curve is 0.5 at step 200; a tenth of the steps away it is 0.55 and 0.4545."""
    low, high = reference.limits("loss", 200)
    assert low == pytest.approx(0.4545 - 0.05, abs=0.005)
    assert high == pytest.approx(0.55 + 0.05, abs=0.005)
    assert reference.limits("loss", 30) is None
    assert reference.limits("loss", 460) is None
    assert reference.limits("accuracy", 200) is None


def test_noise_of_the_reference_is_smoothed(tmp_path):
    rows = [{"step": step, "loss": 1 + 0.5 * (-1) ** (step // 10)} for step in range(10, 401, 10)]
    reference = ReferenceCurves(write_log(tmp_path / "noisy", rows, "slack: 0\ncurves: {loss: {absolute: 0.0}}"))
    low, high = reference.limits("loss", 200)
    assert 0.85 < low <= high < 1.15


def test_an_equal_run_and_a_slightly_slower_one_stay_inside(reference):
    assert lines(reference, falling()) == []
    assert lines(reference, falling(1.08)) == []


def test_a_run_outside_is_warned_of_once_and_its_return_is_told(reference):
    rows = falling()
    for row in rows[14:20]:  # steps 150 to 200
        row["loss"] *= 1.5
    left, back = lines(reference, rows)
    assert left.startswith("warning: step 170: loss")  # the third line in a row
    assert "is above the band" in left
    assert back.startswith("step 210: loss")


def test_two_lines_outside_are_no_warning_and_one_validation_is(reference):
    rows = falling()
    rows[14]["loss"] = rows[15]["loss"] = 0.0
    assert lines(reference, rows) == []
    rows[-1]["val_loss"] = 0.1
    [warning] = lines(reference, rows)
    assert "step 400: val_loss 0.1 is below the band" in warning
    rows[-1]["val_loss"] = float("nan")
    assert "val_loss nan is above" in lines(reference, rows)[0]


def test_a_reference_without_band_says_that_it_is_a_guess(tmp_path):
    reference = ReferenceCurves(write_log(tmp_path / "run", falling()))
    assert "a guess" in lines(reference, falling(2.0))[0]
    assert ReferenceCurves(tmp_path / "run" / "metrics.jsonl").curves.keys() == {"loss", "val_loss"}


def test_a_run_is_inside_its_own_band(tmp_path):
    """The quickstart's, as a reference without band.yaml: its first points are steep."""
    rows = read_log(CURVES / "fashion_mnist_ar")
    assert lines(ReferenceCurves(write_log(tmp_path / "run", rows)), rows) == []


def test_a_reference_without_a_common_value_is_told(program, reference, tmp_path):
    for name, row in (("other_curves", {"step": 200, "val_psnr": 20.0}), ("other_steps", {"step": 9000, "loss": 1.0})):
        run = write_log(tmp_path / name, [row])
        code, _, err = program("training/compare.py", run, reference.folder)
        assert code == 2
        assert f"{name}: nothing was compared: no log line has loss, val_loss at the steps of" in err


def test_faulty_references_are_named(tmp_path):
    with pytest.raises(UserError, match=r"there is no .*nowhere/metrics.jsonl; name the folder of a run"):
        ReferenceCurves(tmp_path / "nowhere")
    with pytest.raises(UserError, match="has no curve 'los'; did you mean 'loss'"):
        ReferenceCurves(write_log(tmp_path / "a", falling(), "curves: {los: {relative: 0.1}}"))
    with pytest.raises(UserError, match="has none of the curves"):
        ReferenceCurves(write_log(tmp_path / "b", [{"step": 1, "lr": 1.0}]))


@pytest.mark.parametrize("name", REFERENCES)
def test_references_of_the_repository_hold_their_own_run(name):
    reference = ReferenceCurves(CURVES / name)
    assert reference.curves.keys() == reference.band.curves.keys()
    assert lines(reference, read_log(CURVES / name)) == []
    worse = [{k: 1.6 * v if isinstance(v, float) else v for k, v in row.items()} for row in read_log(CURVES / name)]
    assert lines(reference, worse)


@pytest.mark.slow
def test_a_training_warns_and_draws_the_band(tmp_path, capfd):
    """The flag of the command line reaches the log."""
    first = generator_trainer(tmp_path, "first")
    first.run()
    shutil.copytree(first.output_dir, tmp_path / "other")
    log = (tmp_path / "other" / "metrics.jsonl").read_text()
    (tmp_path / "other" / "metrics.jsonl").write_text(log.replace('"val_loss": ', '"val_loss": 1'))
    write_log(tmp_path / "foreign", [{"step": 1, "val_psnr": 20.0}])
    for name, warnings in (("first", 0), ("other", 1), ("foreign", 0)):
        trainer = generator_trainer(tmp_path, f"to_{name}", "--compare", str(tmp_path / name))
        capfd.readouterr()
        trainer.run()
        err = capfd.readouterr().err
        assert err.count("warning: step 8: val_loss") == warnings
        assert err.count("warning: nothing was compared") == (name == "foreign")
        assert (trainer.output_dir / "curves.png").is_file()


def test_the_flag_sets_the_key():
    for arguments in (["--compare", "x"], ["--compare=x"]):
        config = load_config(ARConfig, "", [f"config={ROOT}/configs/alitok_b.yaml", *arguments])
        assert config.training.compare == "x"


def test_the_command_compares_a_log_and_draws_it(program, reference, tmp_path):
    bad = write_log(tmp_path / "bad", falling(1.5))
    code, out, _ = program("training/compare.py", bad, reference.folder, "--picture", tmp_path / "c.png")
    assert code == 1
    assert "loss" in out
    assert (tmp_path / "c.png").stat().st_size > 5000
    code, out, _ = program("training/compare.py", reference.folder / "metrics.jsonl", reference.folder)
    assert code == 0
    assert "loss, val_loss: inside the band" in out
