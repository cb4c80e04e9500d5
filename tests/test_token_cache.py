"""Token caches: both layouts, conversion, and what is refused."""

import pickle
import resource
from dataclasses import replace

import numpy as np
import pytest

from dataset.code_dataset import CachedCodes
from dataset.token_cache.convert import convert, describe
from dataset.token_cache.metadata import prepare_cache, read_metadata
from dataset.token_cache.reader import open_token_cache
from dataset.token_cache.writer import shard_path
from tests.support import toy
from utils.errors import UserError


def contents(folder) -> dict[str, bytes]:
    """Every file below a folder."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_packed_cache_and_its_views(tmp_path):
    cache = open_token_cache(toy.write_token_cache(tmp_path / "cache", 24))
    assert (len(cache), cache.num_views, cache.num_codes, cache.num_classes) == (24, 2, 7, 4)
    assert np.load(shard_path(tmp_path / "cache", 2), allow_pickle=False).shape == (4, 2, 7)
    dataset = CachedCodes(cache)
    indices = np.array([0, 9, 10, 23])
    for view, u in ((0, 0.1), (1, 0.9)):
        batch = dataset[indices, np.full((4, 3), u)]
        codes = batch.codes
        assert codes.shape == (4, 7) and batch.class_ids.tolist() == (indices % 4).tolist()
        assert all((codes[j].numpy() == cache.codes(i, view)).all() for j, i in enumerate(indices))
    limited = CachedCodes(cache, limit=5)
    assert len(limited) == 5 and limited[np.arange(5), np.zeros((5, 3))].codes.shape == (5, 7)


def test_workers_that_are_not_forked_open_the_cache_themselves(tmp_path):
    """Python 3.14 starts them from scratch and sends them the data set, with which the codes must not travel."""
    cache = open_token_cache(toy.write_token_cache(tmp_path / "cache", 2000))
    sent = pickle.dumps(CachedCodes(cache))
    assert len(sent) < 20_000 < cache.shards[0].nbytes * len(cache.shards)
    arrived = pickle.loads(sent)
    assert all((arrived.cache.views(i) == cache.views(i)).all() for i in (0, 999, 1999))


def test_published_layout_reads_alike(tmp_path):
    packed = open_token_cache(toy.write_token_cache(tmp_path / "cache", 6))
    for i, path in enumerate((tmp_path / "cache" / "paths.txt").read_text().split()):
        target = tmp_path / "published" / f"{path}.npz"
        target.parent.mkdir(parents=True, exist_ok=True)
        np.savez(target, codes=np.stack([packed.codes(i, v) for v in range(2)]))
    published = open_token_cache(tmp_path / "published")
    assert len(published) == 6 and published.num_codes == 7 and published.num_views == 2
    both = {(*c.codes(i, 1), c.labels[i]) for c in (packed, published) for i in range(6)}
    assert len(both) == 6


def test_damaged_and_unfinished_caches(tmp_path):
    folder = toy.write_token_cache(tmp_path / "cache", 24)
    metadata = (folder / "metadata.json").read_text()
    (folder / "metadata.json").unlink()
    (folder / "progress").mkdir()
    with pytest.raises(UserError, match="unfinished"):
        open_token_cache(folder)
    (folder / "metadata.json").write_text(metadata.replace('"num_files": 24', '"num_files": 25'))
    with pytest.raises(UserError, match="damaged"):
        open_token_cache(folder)
    (folder / "metadata.json").write_text("{}")
    with pytest.raises(UserError, match="no metadata"):
        open_token_cache(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no token cache"):
        open_token_cache(tmp_path / "empty")


def test_conversion_there_and_back(tmp_path):
    packed = open_token_cache(toy.write_token_cache(tmp_path / "packed", 24))
    convert(packed, tmp_path / "npz", replace(packed.metadata, layout="npz"))
    npz = open_token_cache(tmp_path / "npz")
    assert (tmp_path / "npz" / "a" / "0.png.npz").is_file()
    assert len(npz) == 24 and npz.labels.tolist() == packed.labels.tolist() and npz.paths() == packed.paths()
    assert all((npz.views(i) == packed.views(i)).all() for i in range(24))
    convert(npz, tmp_path / "back", replace(npz.metadata, layout="packed"))
    assert contents(tmp_path / "back") == contents(tmp_path / "packed")


def test_conversion_of_another_programs_files(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for name in ("b/2.JPEG", "a/1.JPEG", "b/1.JPEG"):
        target = tmp_path / "published" / f"{name}.npz"
        target.parent.mkdir(parents=True, exist_ok=True)
        np.savez(target, codes=rng.integers(0, 32, (10, 7)))
    cache = open_token_cache(tmp_path / "published")
    assert cache.metadata is None and cache.codebook_size is None
    with pytest.raises(UserError, match="say --codebook_size"):
        describe(cache, None, None)
    convert(cache, tmp_path / "packed", describe(cache, 32, 16))
    packed = open_token_cache(tmp_path / "packed")
    assert packed.paths() == ["a/1.JPEG", "b/1.JPEG", "b/2.JPEG"] and packed.labels.tolist() == [0, 1, 1]
    assert read_metadata(tmp_path / "packed" / "metadata.json").crop == "ten_crop"
    assert all((packed.views(i) == cache.views(i)).all() for i in range(3))
    convert(cache, tmp_path / "packed", describe(cache, 32, 16))
    assert "is complete" in capsys.readouterr().out
    with pytest.raises(UserError, match="outside a codebook of 16"):
        convert(cache, tmp_path / "small", describe(cache, 16, 16))


def test_many_shards_need_many_open_files(tmp_path):
    """With the usual limit of open files lowered to what is open now, the cache raises it itself."""
    folder, (soft, hard) = toy.write_token_cache(tmp_path / "cache", 24), resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        open_token_cache(folder)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 3 + 512
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_packed_codes_are_16_bits(tmp_path):
    metadata = open_token_cache(toy.write_token_cache(tmp_path / "cache", 24)).metadata
    with pytest.raises(UserError, match="holds 16-bit codes, too few for 100000"):
        prepare_cache(tmp_path / "large", replace(metadata, codebook_size=100000))
