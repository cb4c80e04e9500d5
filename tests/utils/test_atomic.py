"""Atomic writes: the whole file or folder, or none of it."""

import io

import numpy as np
import pytest

from tests.support.launch import small_files
from utils.atomic import atomic_folder, atomic_path, write_json, write_npy, write_text


def test_a_failed_write_keeps_the_file_before(tmp_path):
    path = tmp_path / "new" / "x.txt"
    write_text(path, "before")
    with small_files(100), pytest.raises(OSError):
        write_text(path, "x" * 1000)
    with pytest.raises(ZeroDivisionError), atomic_path(path, flush=False) as part:
        part.write_text("half")
        1 / 0  # noqa: B018
    assert path.read_text() == "before"
    assert list(path.parent.iterdir()) == [path]
    write_json(path, {"a": [1]})
    assert path.read_text() == '{\n  "a": [\n    1\n  ]\n}'


@pytest.mark.parametrize("shape", [(0,), (3, 5), (100, 7, 11)])
def test_npy_files_are_those_of_numpy(tmp_path, shape):
    array = np.random.default_rng(0).integers(0, 256, shape).astype(np.int64)
    for x in (array, array.astype(np.uint8), array.T):
        write_npy(tmp_path / "x.npy", x)
        expected = io.BytesIO()
        np.save(expected, np.ascontiguousarray(x))
        assert (tmp_path / "x.npy").read_bytes() == expected.getvalue()


@pytest.mark.parametrize("limit", [64, 500, 892])
def test_a_full_disk_cuts_no_npy_file(tmp_path, limit):
    """np.save would leave the last bytes in C's buffer, and report nothing."""
    with small_files(limit), pytest.raises(OSError):
        write_npy(tmp_path / "x.npy", np.zeros(768, np.uint8))
    assert list(tmp_path.iterdir()) == []


def test_folders_appear_when_they_are_complete(tmp_path):
    target = tmp_path / "a" / "folder"
    (tmp_path / "a" / "folder.part").mkdir(parents=True)
    (tmp_path / "a" / "folder.part" / "stale").touch()
    with pytest.raises(ZeroDivisionError), atomic_folder(target) as part:
        (part / "x").touch()
        1 / 0  # noqa: B018
    assert list(target.parent.iterdir()) == []
    with atomic_folder(target) as part:
        (part / "x").touch()
        assert not target.exists()
    assert [p.name for p in target.iterdir()] == ["x"]
