"""The index of a JSONL file: what it finds wrong, and when it is made again."""

import json
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from dataset.token_cache import line_index
from dataset.token_cache.line_index import load_index, parse_line
from tests.support import toy
from utils.errors import UserError


@pytest.fixture
def codes(tmp_path) -> Path:
    return toy.write_jsonl(tmp_path / "codes.jsonl")


@pytest.fixture
def indexed(monkeypatch) -> list[Path]:
    """The files that were indexed since."""
    made, make = [], line_index._make_index
    monkeypatch.setattr(line_index, "_make_index", lambda path: (made.append(path), make(path))[1])
    return made


def replace_line(path: Path, number: int, text: str) -> None:
    lines = path.read_text().splitlines()
    lines[number - 1] = text
    path.write_text("\n".join(lines))


def test_spans_are_the_lines(codes):
    index, content = load_index(codes), codes.read_bytes()
    spans = [index.span(row) for row in range(len(index))]
    assert [content[start:end] for start, end in spans] == content.splitlines(keepends=True)
    assert index.class_ids.tolist() == [i % 4 for i in range(24)]
    largest = [max(json.loads(line)["tokens"]) for line in content.splitlines()]
    assert (index.num_tokens, index.largest_row) == (4, largest.index(max(largest)))


def test_the_last_line_needs_no_end(codes):
    codes.write_text(codes.read_text().rstrip())
    assert load_index(codes).span(23)[1] == codes.stat().st_size


def test_the_index_is_kept_beside_the_file(codes, indexed, capfd):
    load_index(codes)
    assert "indexing codes.jsonl: 1.03k of 1.03kB (100%)" in capfd.readouterr().err
    kept = load_index(codes)
    assert len(indexed) == 1
    assert isinstance(kept.array, np.memmap)
    assert {p.name for p in codes.parent.iterdir()} == {"codes.jsonl", "codes.jsonl.index.npy"}


def test_a_changed_file_is_indexed_again(codes, indexed):
    load_index(codes)
    codes.write_text(codes.read_text() + '{"class_id": 3, "tokens": [1, 2, 3, 4]}\n')
    assert len(load_index(codes)) == 25
    status = codes.stat()
    os.utime(codes, ns=(status.st_atime_ns, status.st_mtime_ns - 1))  # another file of the same size
    load_index(codes)
    assert len(indexed) == 3


def test_a_damaged_index_is_made_again(codes, indexed):
    load_index(codes)
    target = codes.with_name("codes.jsonl.index.npy")
    whole = target.read_bytes()
    for damaged in (b"", b"no array", whole[:-8]):
        target.write_bytes(damaged)
        assert len(load_index(codes)) == 24
        assert target.read_bytes() == whole
    assert len(indexed) == 4


def test_an_index_that_cannot_be_written_stays_in_memory(codes, indexed, capfd):
    codes.with_name("codes.jsonl.index.npy").mkdir()  # stands for a folder without permission, which root has
    index = load_index(codes)
    assert index.class_ids.tolist() == [i % 4 for i in range(24)]
    assert not isinstance(index.array, np.memmap)
    assert len(indexed) == 1
    assert "index.npy cannot be written" in capfd.readouterr().out


def test_processes_wait_for_the_one_that_indexes(codes, indexed):
    target = codes.with_name("codes.jsonl.index.npy")
    with line_index.one_process(target):
        waiting = threading.Thread(target=load_index, args=(codes,))
        waiting.start()
        time.sleep(0.1)
        assert waiting.is_alive()
        assert indexed == []
        line_index.write_npy(target, line_index._make_index(codes))
        assert load_index(codes) is not None  # reading it does not release the lock
        time.sleep(0.1)
        assert waiting.is_alive()
    waiting.join(10)
    assert not waiting.is_alive()
    assert len(indexed) == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"class_id": 1, "tokens": [1, 2', 'not {"class_id": int, "tokens": [int, ...]}'),
        ("", 'not {"class_id": int, "tokens": [int, ...]}'),
        ("[1, 2]", 'not {"class_id": int, "tokens": [int, ...]}'),
        ('{"class_id": 1, "tokens": [1, [2], 3, 4]}', 'not {"class_id": int, "tokens": [int, ...]}'),
        ('{"class_id": 1}', "no key 'tokens'"),
        ('{"tokens": [1, 2, 3, 4]}', "no key 'class_id'"),
        ('{"class_id": 1, "tokens": [1, 2, 3]}', "3 tokens, but 4 on line 1"),
        ('{"class_id": 1, "tokens": []}', "tokens must be a list of integers from 0 on"),
        ('{"class_id": 1, "tokens": [1, 2.5, 3, 4]}', "tokens must be a list of integers from 0 on"),
        ('{"class_id": 1, "tokens": [1, -2, 3, 4]}', "tokens must be a list of integers from 0 on"),
        ('{"class_id": 1, "tokens": "1234"}', "tokens must be a list of integers from 0 on"),
        ('{"class_id": -1, "tokens": [1, 2, 3, 4]}', "class_id is -1, it must be an integer from 0 on"),
        ('{"class_id": "a", "tokens": [1, 2, 3, 4]}', "class_id is a, it must be an integer from 0 on"),
        ('{"class_id": 1e3, "tokens": [1, 2, 3, 4]}', "class_id is 1000.0, it must be an integer from 0 on"),
    ],
)
def test_a_wrong_line_is_named(codes, line, message):
    replace_line(codes, 17, line)
    with pytest.raises(UserError) as caught:
        load_index(codes)
    assert str(caught.value) == f"{codes}, line 17: {message}"
    assert not line_index._read_index(codes.with_name("codes.jsonl.index.npy"), codes)


def test_an_empty_file_is_refused(codes):
    codes.write_text("")
    with pytest.raises(UserError, match=r"codes\.jsonl is empty"):
        load_index(codes)


def test_bytes_that_are_no_text_are_refused(codes):
    with pytest.raises(UserError, match="line 3: not"):
        parse_line(b'{"class_id": "\xff"}', codes, 2)
