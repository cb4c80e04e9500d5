"""What a data set is said to hold."""

import sys
import zipfile

import numpy as np
import pytest
from PIL import Image

from dataset import inspect
from dataset.decode import ORIENTATION
from dataset.images import list_images
from tests.support import archives, data_cases
from utils.errors import UserError


@pytest.fixture
def run(monkeypatch, capsys):
    """run(arguments...) -> what the program prints."""

    def main(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["inspect", *map(str, arguments)])
        inspect.main()
        return capsys.readouterr().out

    return main


@pytest.fixture
def data(tmp_path):
    """Three classes of 9, 9 and 11 images, one of one, an empty one; a damaged, a turned and a transparent image."""
    root = data_cases.other_suffixes(tmp_path / "data")
    train, exif = root / "train", Image.Exif()
    (train / "b-second" / "1.png").write_bytes(b"no image")
    exif[ORIENTATION] = 6
    data_cases.picture(3, (300, 40)).save(train / "c-third" / "wide.jpg", exif=exif)
    data_cases.picture(3, (64, 40)).convert("RGBA").save(train / "c-third" / "alpha.png")
    return root


def test_a_report_of_all_images(run, data, tmp_path):
    output = run(data, "--num_workers", 0, "--images", "all", "--sheet", tmp_path / "sheet.png")
    assert "30 images in 5 classes: 0 to 11 images each, median 9" in output
    assert "0 a-first (9), 1 b-second (9), 2 c-third (11), 3 d-fourth (1), 4 e-empty (0)" in output
    assert "decoded all images: 1 cannot be decoded" in output
    assert f"{data}/train/b-second/1.png: not an image, or damaged at its beginning" in output
    assert "formats: PNG (18), JPEG (7), PPM (4)" in output
    assert "modes: RGB (24), L (4), RGBA (1)" in output
    assert "width: 32 to 300, median 32; height: 32 to 40, median 32" in output
    assert "sizes: 32x32 (27), " in output
    assert "1 are turned by their EXIF tag" in output
    assert "1 have transparency" in output
    assert f"wrote {tmp_path / 'sheet.png'}" in output


def test_the_contact_sheet(data):
    """A row a class with images; grey in place of a damaged image, white behind the last one."""
    images = list_images(data, "train")
    sheet = np.asarray(inspect.contact_sheet(images))
    pitch = inspect.THUMBNAIL + 2
    assert sheet.shape[0] == 4 * pitch + 2
    left = sheet.shape[1] - (10 * pitch + 2)
    middle = pitch // 2

    def thumbnail(row: int, column: int) -> np.ndarray:
        top, start = 2 + row * pitch, left + 2 + column * pitch
        return sheet[top : top + inspect.THUMBNAIL, start : start + inspect.THUMBNAIL]

    assert (thumbnail(1, 1) == 127).all()
    assert (thumbnail(3, 1) == 255).all()
    assert thumbnail(0, 0).std() > 10
    expected = np.asarray(images.read(0).resize((96, 96), Image.Resampling.BICUBIC))
    assert abs(thumbnail(0, 0).astype(int) - expected).max() <= 1
    assert thumbnail(2, 0)[middle].std() > 10


def test_a_sample_of_an_archive_of_both_splits(run, tmp_path):
    archive = archives.kaggle_zip(tmp_path)
    output = run(archive, "--num_workers", 1, "--images", 5, "--sheet", tmp_path / "sheet.png")
    assert output.count("18 images in 3 classes: 6 to 6 images each") == 2
    assert output.count("decoded 5 of 18 images: 0 cannot be decoded") == 2
    assert "val: its classes are among those of train" in output
    assert {p.name for p in tmp_path.glob("*.png")} == {"sheet_train.png", "sheet_val.png"}


def test_many_classes_are_summed_up(tmp_path):
    members = [(f"c{c:02d}/{i}.png", b"") for c in range(12) for i in range(c + 1)]
    lines = inspect.class_lines(list_images(archives.write_tar(tmp_path / "train.tar", members), "train"))
    assert lines[1] == "fewest: 0 c00 (1), 1 c01 (2), 2 c02 (3), 3 c03 (4), 4 c04 (5)"
    assert lines[2] == "most: 11 c11 (12), 10 c10 (11), 9 c09 (10), 8 c08 (9), 7 c07 (8)"


def test_classes_that_training_lacks_end_the_report(run, tmp_path, capsys):
    data = data_cases.split_without_class(tmp_path / "data")
    (data / "val" / "a-new").mkdir()
    data_cases.picture(0).save(data / "val" / "a-new" / "0.png")
    with pytest.raises(SystemExit):
        run(data, "--num_workers", 0, "--sheet", tmp_path / "sheet.png")
    assert "class 'a-new' of" in capsys.readouterr().err


def test_a_split_without_classes_is_left_out(run, tmp_path, capsys):
    archive = archives.kaggle_zip(tmp_path)
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr("ILSVRC/Data/CLS-LOC/test/ILSVRC2012_test_00000001.JPEG", archives.pictures("val")[0][2])
    assert inspect.splits_of(str(archive), None).keys() == {"train", "val"}
    assert "test is left out: " in capsys.readouterr().err
    with pytest.raises(UserError, match=r"ILSVRC2012_test_00000001.JPEG has no class"):
        inspect.splits_of(str(archive), "test")


def test_the_place_of_the_sheet_is_checked_before_the_work(run, data, tmp_path, capsys):
    (tmp_path / "notes.png").write_text("my notes")
    with pytest.raises(SystemExit):
        run(data, "--num_workers", 0, "--sheet", tmp_path / "notes.png")
    output = capsys.readouterr()
    assert "notes.png is a file of something else" in output.err
    assert "classes" not in output.out
    assert (tmp_path / "notes.png").read_text() == "my notes"


def test_numbers_are_printed_before_the_sheets_are_drawn(run, tmp_path, capsys, monkeypatch):
    archive = archives.kaggle_zip(tmp_path)
    monkeypatch.setattr(inspect, "contact_sheet", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(archive, "--num_workers", 0, "--images", 1, "--sheet", tmp_path / "sheet.png")
    assert capsys.readouterr().out.count("18 images in 3 classes") == 2


def test_no_data_set(tmp_path):
    with pytest.raises(UserError, match="holds no split train, val, test"):
        inspect.splits_of(str(tmp_path), None)
