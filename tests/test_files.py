"""File formats: token caches of both layouts, sample shards, npz streams, Fashion-MNIST."""

import gzip
import io
import lzma
import tarfile

import numpy as np
import pytest

from dataset import fashion_mnist
from dataset.image_folder import list_images, read_rgb
from sampling.shards import SampleShards
from utils.errors import UserError
from utils.npz import NpzImages


def test_sample_shards_survive_and_stream(tmp_path, monkeypatch):
    monkeypatch.setattr("sampling.shards.shard_size_for", lambda num_samples: 4)
    images = np.random.default_rng(0).integers(0, 256, (10, 8, 8, 3), dtype=np.uint8)

    def open_shards(seed: int = 1) -> SampleShards:
        return SampleShards(tmp_path / "out", 10, 8, {"seed": seed})

    shards = open_shards()
    assert not shards.begin() and shards.missing() == [0, 1, 2]
    shards.write(1, images[4:8])
    again = open_shards()
    assert not again.begin() and again.missing() == [0, 2]
    with pytest.raises(UserError, match="seed 1, now it is 2"):
        open_shards(2).begin()
    for shard in again.missing():
        again.write(shard, images[list(again.images_of(shard))])
    path = again.assemble(np.arange(10) % 3)
    with np.load(path, allow_pickle=False) as arrays:
        assert (arrays["arr_0"] == images).all() and arrays["arr_1"].tolist() == [0, 1, 2] * 3 + [0]
    assert open_shards().begin()
    shards.png(3).unlink(missing_ok=True)
    shards.complete_pngs()
    assert all((np.array(read_rgb(shards.png(i))) == images[i]).all() for i in range(10))
    streamed = list(NpzImages(path).batches(3))
    assert [len(b) for b in streamed] == [3, 3, 3, 1] and (np.concatenate(streamed) == images).all()


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


def test_fashion_mnist_tree(tmp_path):
    files = idx_files()
    fashion_mnist.write_tree(files, tmp_path / "data")
    for split, prefix, count in (("train", "train", 20), ("val", "t10k", 10)):
        images = list_images(tmp_path / "data", split)
        assert len(images) == count and len(images.classes) == 10 and images.classes[0] == "00-t-shirt"
        pixels = np.frombuffer(files[f"{prefix}-images-idx3-ubyte"], np.uint8, offset=16).reshape(-1, 28, 28)
        for path, label in zip(images.paths, images.labels, strict=True):
            image, number = np.array(read_rgb(images.root / path)), int(path[-9:-4])
            assert image.shape == (32, 32, 3) and number % 10 == label
            assert (image[2:30, 2:30, 1] == pixels[number]).all() and image[:2].max() == image[:, 30:].max() == 0


def test_fashion_mnist_sources_are_verified(tmp_path, monkeypatch):
    import hashlib

    files = idx_files()
    monkeypatch.setattr(fashion_mnist, "FILES", {k: hashlib.sha256(v).hexdigest() for k, v in files.items()})
    for name, content in files.items():
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content))
    assert fashion_mnist.fetch(tmp_path) == files
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(b"other"))
    with pytest.raises(UserError, match="wrong SHA-256"):
        fashion_mnist.fetch(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(UserError, match="holds neither"):
        fashion_mnist.fetch(tmp_path)


def test_fashion_mnist_from_a_debian_package(tmp_path, monkeypatch):
    import hashlib

    files = idx_files()
    monkeypatch.setattr(fashion_mnist, "FILES", {k: hashlib.sha256(v).hexdigest() for k, v in files.items()})
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        for name, content in files.items():
            data = gzip.compress(content)
            info = tarfile.TarInfo(f"./usr/share/datasets/fashion-mnist/{name}.gz")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    package = b"!<arch>\n"
    for name, body in (("debian-binary", b"2.0"), ("data.tar.xz", lzma.compress(tar.getvalue()))):
        package += (
            f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(body):<10}`\n".encode() + body + b"\n" * (len(body) % 2)
        )
    path = tmp_path / "package.deb"
    path.write_bytes(package)
    assert fashion_mnist._from_debian(path.as_uri()) == files
