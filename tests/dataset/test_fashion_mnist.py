"""Fashion-MNIST: sources, their verification, the folder tree."""

import gzip
import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest

from dataset import fashion_mnist
from dataset.decode import read_rgb
from dataset.images import list_images
from tests.support.debian import make_package
from utils.errors import UserError


def idx_files() -> dict[str, bytes]:
    """Small files in Fashion-MNIST's format; digests are checked elsewhere."""
    rng = np.random.default_rng(0)
    files = {}
    for prefix, n in (("train", 20), ("t10k", 10)):
        labels = (np.arange(n) % 10).astype(np.uint8)
        pixels = rng.integers(1, 256, (n, 28, 28), dtype=np.uint8)
        files[f"{prefix}-images-idx3-ubyte"] = bytes(16) + pixels.tobytes()
        files[f"{prefix}-labels-idx1-ubyte"] = bytes(8) + labels.tobytes()
    return files


def accept(files: dict[str, bytes], monkeypatch) -> None:
    """Let these files pass as the original ones."""
    monkeypatch.setattr(fashion_mnist, "FILES", {k: hashlib.sha256(v).hexdigest() for k, v in files.items()})


def test_tree(tmp_path):
    files = idx_files()
    fashion_mnist.write_tree(files, tmp_path / "data")
    for split, prefix, count in (("train", "train", 20), ("val", "t10k", 10)):
        images = list_images(tmp_path / "data", split)
        assert len(images) == count
        assert len(images.classes) == 10
        assert images.classes[0] == "00-t-shirt"
        pixels = np.frombuffer(files[f"{prefix}-images-idx3-ubyte"], np.uint8, offset=16).reshape(-1, 28, 28)
        for path, label in zip(images.paths, images.labels, strict=True):
            image, number = np.array(read_rgb(images.root / path)), int(path[-9:-4])
            assert image.shape == (32, 32, 3)
            assert number % 10 == label
            assert (image[2:30, 2:30, 1] == pixels[number]).all()
            assert image[:2].max() == image[:, 30:].max() == 0


def test_sources_are_verified(tmp_path, monkeypatch):
    files = idx_files()
    accept(files, monkeypatch)
    for name, content in files.items():
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content))
    assert fashion_mnist.fetch(tmp_path) == files
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(b"other"))
    with pytest.raises(UserError, match="wrong SHA-256"):
        fashion_mnist.fetch(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(UserError, match="holds neither"):
        fashion_mnist.fetch(tmp_path)


def test_a_split_is_written_whole_or_not_at_all(tmp_path):
    files = idx_files()
    files["t10k-labels-idx1-ubyte"] = bytes(8) + bytes([10] * 10)  # no such class
    with pytest.raises(IndexError):
        fashion_mnist.write_tree(files, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["train"]
    fashion_mnist.write_tree(idx_files(), tmp_path)
    assert len(list_images(tmp_path, "val")) == 10


def debian_package(folder: Path, files: dict[str, bytes]) -> str:
    data = {f"usr/share/datasets/{name}.gz": gzip.compress(content) for name, content in files.items()}
    return make_package(folder, data).as_uri()


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="no dpkg-deb")
def test_debian_package(tmp_path, monkeypatch):
    files = idx_files()
    accept(files, monkeypatch)
    address = debian_package(tmp_path, files)
    assert fashion_mnist._from_debian(address) == files
    (tmp_path / "x.deb").write_bytes((tmp_path / "x.deb").read_bytes()[:300])
    with pytest.raises(ValueError, match="dpkg-deb"):
        fashion_mnist._from_debian(address)
    files.pop("t10k-labels-idx1-ubyte")
    shutil.rmtree(tmp_path / "package")
    with pytest.raises(ValueError, match="lacks some of the files"):
        fashion_mnist._from_debian(debian_package(tmp_path, files))


def test_failed_sources_are_listed(tmp_path, monkeypatch):
    """A mirror that has nothing, and no dpkg-deb."""
    monkeypatch.setattr(fashion_mnist.FashionMNIST, "mirrors", [f"{tmp_path.as_uri()}/"])
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"could not be downloaded.*--source.*No such file.*dpkg-deb is needed"):
        fashion_mnist.fetch(None)
