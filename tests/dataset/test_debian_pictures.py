"""Photographs and icons as folders of small squares."""

import hashlib
import io
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from dataset import debian_package, debian_pictures
from dataset.debian_package import DebianPackage
from dataset.debian_pictures import crop, on_background
from dataset.images import list_images
from tests.support.debian import make_package


def png(colour: tuple[int, ...], side: int = 80, mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    Image.new(mode, (side, side), colour).save(file, "png")
    return file.getvalue()


def run(monkeypatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["debian_pictures", *map(str, arguments)])
    debian_pictures.main()


def colours(folder, split: str) -> set[tuple[int, ...]]:
    images = list_images(folder, split)
    return {images.read(i).getpixel((16, 16)) for i in range(len(images))}


def test_no_picture_is_in_both_splits(tmp_path, monkeypatch):
    source = tmp_path / "source"
    source.mkdir()
    for i in range(10):
        (source / f"{i}.png").write_bytes(png((20 * i, 0, 0)))
    output = tmp_path / "squares"
    run(monkeypatch, "folder", "--source", source, "--output", output, "--size", 32, "--count", 40)
    assert colours(output, "train") == {(20 * i, 0, 0) for i in range(10) if i % 5}
    assert colours(output, "val") == {(0, 0, 0), (100, 0, 0)}
    assert len(list_images(output, "train")) == 40
    assert len(list_images(output, "val")) == 4


def test_each_training_picture_can_be_a_class(tmp_path, monkeypatch):
    source = tmp_path / "source"
    source.mkdir()
    for i in range(6):
        (source / f"{i}.png").write_bytes(png((20 * i, 0, 0)))
    output = tmp_path / "squares"
    run(monkeypatch, "folder", "--source", source, "--output", output, "--count", 40, "--by_picture")
    for split in ("train", "val"):
        images = list_images(output, split)
        found = {(int(label), images.read(i).getpixel((16, 16))[0]) for i, label in enumerate(images.labels)}
        assert found == {(0, 20), (1, 40), (2, 60), (3, 80)}  # pictures 0 and 5 are those of validation


def test_a_damaged_picture_is_named(tmp_path, monkeypatch, capfd):
    source = tmp_path / "source"
    source.mkdir()
    for i in range(5):
        (source / f"{i}.png").write_bytes(png((20 * i, 0, 0)) if i else b"no picture")
    with pytest.raises(SystemExit):
        run(monkeypatch, "folder", "--source", source, "--output", tmp_path / "squares")
    assert f"error: {source / '0.png'} cannot be read (" in capfd.readouterr().err


def test_an_interrupted_split_is_written_again(tmp_path, monkeypatch):
    """The finished split stays as it is."""
    source = tmp_path / "source"
    source.mkdir()
    for i in range(5):
        (source / f"{i}.png").write_bytes(png((20 * i, 0, 0)))
    arguments = ("folder", "--source", source, "--output", tmp_path / "squares", "--size", 32, "--count", 10)
    run(monkeypatch, *arguments)
    kept = next((tmp_path / "squares" / "train").rglob("*.png"))
    kept.write_bytes(b"as it is")
    shutil.rmtree(tmp_path / "squares" / "val")
    run(monkeypatch, *arguments)
    assert kept.read_bytes() == b"as it is"
    assert len(list_images(tmp_path / "squares", "val")) == 1


def test_crop_is_a_square_of_the_picture():
    """On a ramp from left to right a crop's columns rise evenly, over as much as its side covers."""
    ramp = Image.fromarray(np.tile(np.linspace(0, 255, 200).astype(np.uint8), (100, 1))).convert("RGB")
    rng = np.random.default_rng(0)
    spans = []
    for _ in range(30):
        row = np.asarray(crop(ramp, 32, rng))[0, :, 0].astype(int)
        assert (np.diff(row) >= 0).all()
        spans.append(row[-1] - row[0])
    assert min(spans) < 255 * 45 / 200
    assert 255 * 80 / 200 < max(spans) <= 255 * 101 / 200


def test_icon_lies_on_its_background():
    image = on_background(Image.new("RGBA", (128, 128), (255, 0, 0, 255)), 64, np.random.default_rng(3))
    red = (np.asarray(image) == (255, 0, 0)).all(-1)
    side = round(red.sum() ** 0.5)
    assert 38 <= side <= 64
    assert red.sum() == side**2


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="no dpkg-deb")
def test_icons_of_a_package(tmp_path, monkeypatch, capsys):
    icons = {f"usr/share/icons/oxygen/base/128x128/apps/{i}.png": png((i, 9, 9, 255), mode="RGBA") for i in range(5)}
    package = make_package(tmp_path, {**icons, "usr/share/icons/oxygen/base/64x64/apps/0.png": b"not wanted"})
    monkeypatch.setattr(debian_package, "POOL", f"{tmp_path.as_uri()}/")
    digest = hashlib.sha256(package.read_bytes()).hexdigest()
    _, wanted = debian_pictures.PACKAGES["icons"]
    monkeypatch.setitem(debian_pictures.PACKAGES, "icons", ((DebianPackage("x.deb", digest),), wanted))
    assert [icon.getpixel((0, 0)) for icon in debian_pictures.fetch("icons")] == [(i, 9, 9, 255) for i in range(5)]
    monkeypatch.setitem(debian_pictures.PACKAGES, "icons", ((DebianPackage("x.deb", "0" * 64),), wanted))
    with pytest.raises(SystemExit):
        run(monkeypatch, "icons", "--output", tmp_path / "icons")
    assert "wrong SHA-256. Pictures of your own will do" in capsys.readouterr().err
