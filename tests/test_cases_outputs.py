"""Places of outputs as people have them: checked before the work, held during it, nothing else overwritten."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from modeling.frozen.small_classifier import Classifier, save_classifier
from tests.support import toy
from tests.support.commands import pretokenize, train_ar
from tests.support.launch import small_files, started

EVALUATOR = "guided-diffusion/evaluations/evaluator.py"


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory):
    """A folder with c.safetensors (classifier), a.npz and b.npz (images)."""
    folder = tmp_path_factory.mktemp("evaluation")
    save_classifier(folder / "c.safetensors", Classifier(4), 4, 0.5)
    for name in "ab":
        np.savez(folder / f"{name}.npz", np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), np.uint8))
    return folder


@pytest.fixture
def single_files(evaluation, pretrained, few_images):
    """Programs that write one file, without its path."""
    classifier = ("--classifier", evaluation / "c.safetensors")
    data = ("--data_path", few_images, "--img_size", 16)
    return {
        "evaluator": (EVALUATOR, evaluation / "a.npz", evaluation / "b.npz", *classifier, "--metrics", "is", "--json"),
        "picture": ("sample.py", pretrained / "hub", "--classes", "1", "--output"),
        "reference": ("evaluation/make_reference.py", *data, "--output"),
        "classifier": ("evaluation/train_classifier.py", *data, "--epochs", 0.1, "--output"),
        "inception": ("evaluation/convert_inception.py", evaluation / "none.pb"),
    }


PROGRAMS = ("evaluator", "picture", "reference", "classifier", "inception")
UNWRITABLE = Path("/sys/nothing")  # not even for the superuser


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_place_of_a_file_is_checked_before_the_work(refusal, single_files, tmp_path, name):
    command = single_files[name]
    (tmp_path / "notes").write_text("my notes")
    (tmp_path / "folder").mkdir()
    assert "/folder is a folder: name a file in it" in refusal(*command, tmp_path / "folder")
    assert "/notes/x cannot be written (" in refusal(*command, tmp_path / "notes" / "x")
    assert "/sys/nothing/x cannot be written (" in refusal(*command, UNWRITABLE / "x")
    with small_files(4000):
        assert "/new/x cannot be written (No space left on device)" in refusal(*command, tmp_path / "new" / "x")
    if name != "classifier":
        assert "/notes is a file of something else" in refusal(*command, tmp_path / "notes")
    else:
        assert "/notes is not a file of evaluation/train_classifier.py" in refusal(*command, tmp_path / "notes")
    assert (tmp_path / "notes").read_text() == "my notes"
    assert {path.name for path in tmp_path.rglob("*")} == {"notes", "folder", "new"}


def test_numbers_are_printed_although_their_file_cannot_be_written(program, single_files, tmp_path, monkeypatch):
    def lose_the_place(_) -> None:
        shutil.rmtree(tmp_path / "out")
        (tmp_path / "out").touch()

    monkeypatch.setattr("utils.output_file.probe_disk", lose_the_place)
    code, out, err = program(*single_files["evaluator"], tmp_path / "out" / "x.json")
    assert code == 2
    assert "Inception Score: " in out
    assert err.splitlines()[-1] == f"error: {tmp_path}/out/x.json could not be written (File exists)"


@pytest.fixture(scope="module")
def busy(tmp_path_factory):
    """A folder where another program fills out/ and writes x.png."""
    folder = tmp_path_factory.mktemp("busy")
    code = "import sys, time; from pathlib import Path; from utils.folder_lock import exclusive_lock\n"
    code += "from utils.output_file import output_file; folder = Path(sys.argv[1])\n"
    code += "with exclusive_lock(folder / 'out'), output_file(folder / 'x.png', '', b''): print('held', flush=True);"
    with started("-c", f"{code} time.sleep(300)", folder) as process:
        assert process.stdout.readline() == "held\n"
        yield folder


@pytest.mark.slow
def test_a_file_is_written_by_one_program_at_a_time(refusal, single_files, busy):
    assert "x.png: another program is writing it" in refusal(*single_files["picture"], busy / "x.png")


def test_what_an_earlier_or_killed_run_left_is_replaced(program, single_files, tmp_path):
    (tmp_path / "x.png.part").write_text("half")
    for _ in range(2):
        assert program(*single_files["picture"], tmp_path / "x.png")[0] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["x.png"]


@pytest.fixture
def folder_programs(sampling, few_images, tokenizer_config, pretrained, tmp_path):
    """Programs that fill a folder: name -> command for a folder."""
    tokenizer, cache = pretrained / "tokenizer", tmp_path / "source"
    toy.write_token_cache(cache)
    return {
        "sampling": lambda folder: [*sampling(), f"experiment.output_dir={folder}"],
        "pretokenization": lambda folder: pretokenize(few_images, tokenizer_config, tokenizer, folder),
        "conversion": lambda folder: ["dataset/token_cache/convert.py", cache, folder, "--layout", "npz"],
        "training": lambda folder: train_ar(pretrained / "ar.yaml", cache, folder),
    }


@pytest.mark.parametrize("name", ["sampling", "pretokenization", "conversion", "training"])
def test_the_place_of_a_folder_is_checked_before_the_work(refusal, folder_programs, tmp_path, name):
    command = folder_programs[name]
    foreign = {"sampling": "out.npz", "training": "out/config.yaml"}.get(name, "out/notes")
    (tmp_path / "out").mkdir()
    (tmp_path / foreign).write_text("my notes")
    assert f"/{foreign} is there and " in refusal(*command(tmp_path / "out"))
    assert (tmp_path / foreign).read_text() == "my notes"
    path = tmp_path / foreign
    line = {"pretokenization": f"{path} is a file; name a folder"}.get(name, f"cannot write to {path} (")
    assert line in refusal(*command(path))
    assert "cannot write to /sys/nothing (" in refusal(*command(UNWRITABLE))
    with small_files(4000):
        assert "/new (No space left on device)" in refusal(*command(tmp_path / "new"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sampling", "pretokenization", "conversion"])
def test_a_folder_is_filled_by_one_program_at_a_time(refusal, folder_programs, busy, name, monkeypatch):
    monkeypatch.setattr("utils.sharded_output.LOCK_TIMEOUT", 0)
    assert "another run is at work in" in refusal(*folder_programs[name](busy / "out"))


def test_a_cache_that_cannot_be_written_passes_its_check(program, tmp_path, few_images, tokenizer_config, pretrained):
    command = pretokenize(few_images, tokenizer_config, pretrained / "tokenizer", tmp_path / "cache")
    assert program(*command)[0] == 0
    with small_files(4000):
        code, out, err = program("pretokenization.py", "--check", tmp_path / "cache", "--check_images", 2)
    assert code == 0, err
    assert "warning: no picture of the check" in out
