"""Files that cannot be decoded during a tokenizer training."""

import pytest

from tests.support.trainings import ONE_SHORT_PHASE, tokenizer_trainer
from training.logging import read_log
from utils.errors import UserError


def test_undecodable_files_are_skipped_counted_and_listed(tmp_path, images, capfd):
    broken = images / "train" / "class_1" / "broken.JPEG"
    broken.write_bytes((images / "train" / "class_1" / "001.JPEG").read_bytes()[:200])
    trainer = tokenizer_trainer(tmp_path, "run", 1, "dataset.params.max_bad_fraction=0.1")
    trainer.run()
    assert (trainer.output_dir / "undecodable.txt").read_text() == f"{broken}\n"
    assert [r["undecodable_files"] for r in read_log(trainer.output_dir) if "loss" in r][-1] == 1
    assert capfd.readouterr().out.count("broken.JPEG cannot be decoded") == 1
    with pytest.raises(UserError, match=r"1 of 49 files cannot be decoded.*max_bad_fraction=0.01.*broken.JPEG"):
        tokenizer_trainer(tmp_path, "strict", 1, "dataset.params.max_bad_fraction=0.01").run()


def test_a_run_of_unreadable_files_ends_the_training(tmp_path, images):
    trainer = tokenizer_trainer(tmp_path, "run", 1)
    for path in (images / "train").rglob("*.*"):
        path.unlink()
    with pytest.raises(UserError, match="48 files in a row cannot be decoded"):
        trainer.run()


def test_a_bad_validation_file_is_left_out(tmp_path, images, capfd):
    (images / "val" / "class_2" / "000.png").write_bytes(b"no image")
    trainer = tokenizer_trainer(tmp_path, "run", 1, ONE_SHORT_PHASE)
    trainer.run()
    assert "000.png cannot be decoded" in capfd.readouterr().out
    last = read_log(trainer.output_dir)[-1]
    assert 0 < last["val_ssim"] < 1
    assert last["val_images"] == 47
    for path in (images / "val").rglob("*.*"):
        path.write_bytes(b"no image")
    with pytest.raises(UserError, match=r"none of the 48 images of .*val can be decoded"):
        trainer.validation.evaluation.metrics(trainer.tokenizer)
