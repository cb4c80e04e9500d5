"""Writing caches: the files of a finished cache, skipped images, 16-bit codes."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest

from dataset.images import ImageList
from dataset.token_cache.reader import open_token_cache
from dataset.token_cache.writer import CacheWriter, write_npz
from tests.support import toy
from utils.errors import UserError


def test_files_of_a_finished_cache(tmp_path):
    """The formats that other programs and earlier versions read."""
    cache = toy.write_token_cache(tmp_path / "cache", 24)
    shards = [f"codes/{i:05d}.npy" for i in range(3)]
    files = {p.relative_to(cache).as_posix() for p in cache.rglob("*") if p.is_file()}
    assert files == {"metadata.json", "labels.npy", "paths.txt", "SHA256SUMS", *shards}
    sums = dict(line.split("  ")[::-1] for line in (cache / "SHA256SUMS").read_text().splitlines())
    assert list(sums) == sorted(["labels.npy", "paths.txt", *shards])
    for name, digest in sums.items():
        assert hashlib.sha256((cache / name).read_bytes()).hexdigest() == digest
    codes = [np.load(cache / name, allow_pickle=False) for name in shards]
    assert [c.shape for c in codes] == [(10, 2, 7), (10, 2, 7), (4, 2, 7)]
    assert {c.dtype for c in codes} == {np.dtype(np.uint16)}
    assert np.load(cache / "labels.npy", allow_pickle=False).dtype == np.int64
    assert list(json.loads((cache / "metadata.json").read_text())) == [
        *("num_files", "files_sha256", "num_views", "num_codes", "codebook_size", "image_size", "crop", "split"),
        *("precision", "tokenizer_sha256", "classes", "layout", "shard_size", "format_version", "skipped"),
        *("data_path", "tokenizer_config", "tokenizer_checkpoint"),
    ]


@pytest.mark.parametrize("layout", ["packed", "npz"])
def test_skipped_images_have_no_codes(tmp_path, layout):
    metadata = open_token_cache(toy.write_token_cache(tmp_path / "cache", 24)).metadata
    labels = np.arange(5)
    images = ImageList(tmp_path, tuple("abcde"), tuple(f"{c}/0.png" for c in "abcde"), labels)
    metadata = replace(metadata, num_files=5, shard_size=3, classes=images.classes, layout=layout)
    writer = CacheWriter(tmp_path / "skipping", metadata, images)
    assert not writer.prepare()
    codes = np.arange(5 * 2 * 7).reshape(5, 2, 7) % 32
    writer.write(0, [0, 2], codes[[0, 2]], skipped=[1])
    writer.write(1, [3, 4], codes[[3, 4]])
    assert writer.finish().skipped == ("b/0.png",)
    cache = open_token_cache(tmp_path / "skipping")
    assert cache.paths() == ["a/0.png", "c/0.png", "d/0.png", "e/0.png"]
    assert cache.labels.tolist() == [0, 2, 3, 4]
    for i, row in enumerate(codes[[0, 2, 3, 4]]):
        assert (cache.views(i) == row).all()


def test_packed_codes_are_16_bits(tmp_path):
    metadata = open_token_cache(toy.write_token_cache(tmp_path / "cache", 24)).metadata
    images = ImageList(tmp_path, (), (), np.zeros(0))
    with pytest.raises(UserError, match="holds 16-bit codes, too few for a codebook of 65537"):
        CacheWriter(tmp_path / "large", replace(metadata, codebook_size=2**16 + 1), images)
    CacheWriter(tmp_path / "large", replace(metadata, codebook_size=2**16), images)
    CacheWriter(tmp_path / "large", replace(metadata, codebook_size=2**16 + 1, layout="npz"), images)


def test_a_class_cannot_be_named_like_the_folder_of_unfinished_shards(tmp_path):
    metadata = open_token_cache(toy.write_token_cache(tmp_path / "cache", 24)).metadata
    images = ImageList(tmp_path, ("progress",), ("progress/0.png",), np.zeros(1))
    with pytest.raises(UserError, match="has a folder progress of its own"):
        CacheWriter(tmp_path / "npz", replace(metadata, layout="npz"), images)
    CacheWriter(tmp_path / "packed", replace(metadata, layout="packed"), images)


def test_equal_codes_make_equal_npz_files(tmp_path, monkeypatch):
    codes = np.arange(14).reshape(2, 7)
    write_npz(tmp_path / "a.npz", codes)
    monkeypatch.setattr("time.time", lambda: 1e9)
    write_npz(tmp_path / "b.npz", codes)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with np.load(tmp_path / "a.npz", allow_pickle=False) as arrays:
        assert arrays["codes"].dtype == np.int64
        assert (arrays["codes"] == codes).all()
