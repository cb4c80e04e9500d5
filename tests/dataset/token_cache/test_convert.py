"""Conversion between the layouts."""

from dataclasses import replace

import numpy as np
import pytest

from dataset.token_cache.convert import convert, infer_metadata
from dataset.token_cache.metadata import read_metadata
from dataset.token_cache.reader import open_token_cache
from tests.support import toy
from tests.support.files import folder_contents
from utils.errors import UserError


def test_conversion_there_and_back(tmp_path):
    packed = open_token_cache(toy.write_token_cache(tmp_path / "packed", 24))
    convert(packed, tmp_path / "npz", replace(packed.metadata, layout="npz"))
    npz = open_token_cache(tmp_path / "npz")
    assert (tmp_path / "npz" / "a" / "0.png.npz").is_file()
    assert len(npz) == 24
    assert npz.labels.tolist() == packed.labels.tolist()
    assert npz.paths() == packed.paths()
    assert all((npz.views(i) == packed.views(i)).all() for i in range(24))
    convert(npz, tmp_path / "back", replace(npz.metadata, layout="packed"))
    assert folder_contents(tmp_path / "back") == folder_contents(tmp_path / "packed")


def test_conversion_of_a_third_party_cache(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for name in ("b/2.JPEG", "a/1.JPEG", "b/1.JPEG"):
        target = tmp_path / "published" / f"{name}.npz"
        target.parent.mkdir(parents=True, exist_ok=True)
        np.savez(target, codes=rng.integers(0, 32, (10, 7)))
    cache = open_token_cache(tmp_path / "published")
    assert cache.metadata is None
    assert cache.codebook_size is None
    with pytest.raises(UserError, match="give --codebook_size"):
        infer_metadata(cache, None, None)
    convert(cache, tmp_path / "packed", infer_metadata(cache, 32, 16))
    packed = open_token_cache(tmp_path / "packed")
    assert packed.paths() == ["a/1.JPEG", "b/1.JPEG", "b/2.JPEG"]
    assert packed.labels.tolist() == [0, 1, 1]
    assert read_metadata(tmp_path / "packed").crop == "ten_crop"
    assert read_metadata(tmp_path / "packed").tokenizer_sha256 == "unknown"
    assert all((packed.views(i) == cache.views(i)).all() for i in range(3))
    convert(cache, tmp_path / "packed", infer_metadata(cache, 32, 16))
    assert "is complete" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"[ab]/\d.JPEG has the code \d+, the codebook has 16"):
        convert(cache, tmp_path / "small", infer_metadata(cache, 16, 16))
