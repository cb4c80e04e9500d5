"""Opening and reading caches of both layouts, and what is refused."""

import pickle
import resource

import numpy as np
import pytest

from dataset.code_dataset import CachedCodes
from dataset.token_cache.metadata import packed_path
from dataset.token_cache.reader import open_token_cache
from tests.support import toy
from utils.errors import UserError


def test_packed_cache(tmp_path):
    cache = open_token_cache(toy.write_token_cache(tmp_path / "cache", 24))
    assert (len(cache), cache.num_views, cache.num_codes, cache.num_classes) == (24, 2, 7, 4)
    codes = np.concatenate([np.load(packed_path(cache.path, i), allow_pickle=False) for i in range(3)])
    for i in (0, 9, 10, 23):
        assert (cache.views(i) == codes[i]).all()
        assert (cache.codes(i, 1) == codes[i, 1]).all()


def test_workers_that_are_not_forked_open_the_cache_themselves(tmp_path):
    """Python 3.14 starts them from scratch and sends them the data set, without the codes."""
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
    assert (len(published), published.num_codes, published.num_views) == (6, 7, 2)
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
    with pytest.raises(UserError, match="is not the metadata"):
        open_token_cache(folder)
    (folder / "metadata.json").write_text(metadata)
    open_token_cache(folder)
    for name in ("labels.npy", "codes/00001.npy"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[:-10])
        with pytest.raises(UserError, match="damaged"):
            open_token_cache(folder)
        (folder / name).write_bytes(content)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="is no token cache"):
        open_token_cache(tmp_path / "empty")
    with pytest.raises(UserError, match="not found"):
        open_token_cache(tmp_path / "nowhere")


def test_many_shards_need_many_open_files(tmp_path):
    """The limit of open files is lowered to what is open now; the cache raises it."""
    folder, (soft, hard) = toy.write_token_cache(tmp_path / "cache", 24), resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        open_token_cache(folder)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 3 + 512
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
