"""Published codes as a token cache: reading, what does not fit, conversion."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from dataset.code_dataset import CachedCodes
from dataset.token_cache.check import check_labels, count_codes
from dataset.token_cache.convert import convert, infer_metadata
from dataset.token_cache.jsonl import JsonlTokenCache
from dataset.token_cache.reader import open_token_cache
from tests.support import toy
from tests.support.launch import run
from utils.errors import UserError


@pytest.fixture
def cache(tmp_path) -> JsonlTokenCache:
    return open_token_cache(toy.write_jsonl(tmp_path / "codes.jsonl"))


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_line_is_an_image_with_one_view(cache):
    assert (len(cache), cache.num_views, cache.num_codes, cache.num_classes) == (24, 1, 4, 4)
    assert cache.metadata is None
    for i, line in enumerate(lines(cache.path)):
        assert cache.views(i).tolist() == [line["tokens"]]
        assert cache.codes(i, 0).tolist() == line["tokens"]
        assert cache.labels[i] == line["class_id"]
    assert list(cache.paths())[:5] == ["0/01", "1/02", "2/03", "3/04", "0/05"]
    assert len(cache.paths()) == 24
    assert count_codes(cache, 32).counts.sum() == 96
    assert check_labels(cache).tolist() == cache.labels.tolist()


def test_training_batches(cache):
    data = CachedCodes(cache)
    batch = data[np.array([17, 3]), np.full((2, 3), 0.99), np.array([5, 6])]
    expected = lines(cache.path)
    assert batch.codes.tolist() == [expected[i]["tokens"] for i in (17, 3)]
    assert batch.class_ids.tolist() == [1, 3]
    assert data.describe([17, 3]) == "1/18, 3/04"
    assert data.fingerprint() == CachedCodes(open_token_cache(cache.path)).fingerprint()


def test_workers_that_are_not_forked_map_the_index_themselves(tmp_path):
    cache = open_token_cache(toy.write_jsonl(tmp_path / "codes.jsonl", 2000))
    sent = pickle.dumps(CachedCodes(cache))
    assert len(sent) < 1000 < cache.labels.nbytes
    assert (pickle.loads(sent).cache.codes(1999, 0) == cache.codes(1999, 0)).all()


def test_an_index_in_memory_travels_to_the_workers(tmp_path, capfd):
    (tmp_path / "codes.jsonl.index.npy").mkdir()
    cache = open_token_cache(toy.write_jsonl(tmp_path / "codes.jsonl"))
    assert "cannot be written" in capfd.readouterr().out
    arrived = pickle.loads(pickle.dumps(cache))
    assert "cannot be written" not in capfd.readouterr().out
    assert (arrived.codes(23, 0) == cache.codes(23, 0)).all()


def test_a_line_that_does_not_fit_the_models_is_named(cache):
    cache.require_fit(4, 32, 4)
    with pytest.raises(UserError, match=r"codes\.jsonl, line 1: 4 tokens, the tokenizer makes 7 codes"):
        cache.require_fit(7, 32, 4)
    largest = [max(line["tokens"]) for line in lines(cache.path)]
    number = largest.index(max(largest)) + 1
    message = rf"line {number}: token {max(largest)} is outside the codebook of {max(largest)}$"
    with pytest.raises(UserError, match=message):
        cache.require_fit(4, max(largest), 4)
    with pytest.raises(UserError, match=r"line 4: class_id 3 is out of range, the classes are 0 to 2$"):
        cache.require_fit(4, 32, 3)


def test_conversion_to_the_packed_layout(cache, tmp_path):
    convert(cache, tmp_path / "packed", infer_metadata(cache, 32, 32))
    packed = open_token_cache(tmp_path / "packed")
    assert (len(packed), packed.num_views, packed.num_codes, packed.codebook_size) == (24, 1, 4, 32)
    assert packed.metadata.crop == "unknown"
    assert packed.classes == ("0", "1", "2", "3")
    assert packed.paths() == list(cache.paths())
    assert packed.labels.tolist() == cache.labels.tolist()
    assert all((packed.views(i) == cache.views(i)).all() for i in range(24))
    with pytest.raises(UserError, match=r"line \d+: token 31 is outside the codebook of 16"):
        convert(cache, tmp_path / "small", infer_metadata(cache, 16, 32))
    assert not (tmp_path / "small").exists()


def test_class_names_sort_by_class_id(tmp_path):
    """A class without a line has a name too, so that class ids stay what they are."""
    path = tmp_path / "codes.jsonl"
    path.write_text("".join(json.dumps({"class_id": i, "tokens": [1]}) + "\n" for i in (11, 2)))
    cache = open_token_cache(path)
    assert cache.classes[2] == "02"
    assert len(cache.classes) == 12
    assert list(cache.classes) == sorted(cache.classes)
    assert list(cache.paths()) == ["11/1", "02/2"]


@pytest.mark.slow
def test_the_converter_as_a_command(cache, tmp_path):
    arguments = ("-m", "dataset.token_cache.convert", cache.path, tmp_path / "packed")
    assert "give --codebook_size and --img_size" in run(*arguments, check=False).stderr
    assert "is complete: 24 images" in run(*arguments, "--codebook_size", 32, "--img_size", 32).stdout
    assert "perplexity" in run("pretokenization.py", "--check", tmp_path / "packed").stdout
    assert "convert it first" in run("pretokenization.py", "--check", cache.path, check=False).stderr


@pytest.mark.slow
def test_the_text_is_not_kept_in_memory(tmp_path):
    """Neither while the index is made nor while codes are read."""
    path = toy.write_jsonl(tmp_path / "codes.jsonl", 40_000, 256)
    code = """
import sys
from dataset.token_cache.reader import open_token_cache
from tests.support.launch import peak_memory
before = peak_memory()
cache = open_token_cache(sys.argv[1])
for i in range(len(cache)):
    cache.codes(i, 0)
print(peak_memory() - before)
"""
    assert int(run("-c", code, path, fresh=True).stdout) < path.stat().st_size / 4
