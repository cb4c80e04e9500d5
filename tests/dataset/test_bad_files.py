"""Counting undecodable files on one rank and on several."""

from pathlib import Path

import numpy as np
import pytest

from dataset.bad_files import BadFiles
from dataset.images import ImageList
from tests.support.launch import run
from utils.errors import UserError


def make_images(folder: Path) -> ImageList:
    return ImageList(folder, ("a",), tuple(f"a/{i}.png" for i in range(20)), np.zeros(20, np.int64))


def test_files_are_reported_once_and_listed(tmp_path, capfd):
    indices = {3}  # from a checkpoint
    bad_files = BadFiles(make_images(tmp_path), 0.1, tmp_path / "bad.txt", indices)
    bad_files.add([(3, "broken"), (7, "cut")])
    bad_files.add([(7, "cut")])
    warnings = capfd.readouterr().out
    assert "3.png" not in warnings
    assert warnings.count(f"warning: {tmp_path}/a/7.png cannot be decoded (cut)") == 1
    assert bad_files.sync_across_ranks() == 2
    assert indices == {3, 7}
    assert (tmp_path / "bad.txt").read_text() == f"{tmp_path}/a/3.png\n{tmp_path}/a/7.png\n"


def test_files_that_are_no_longer_in_the_list_are_forgotten(tmp_path):
    """A training is resumed with fewer images."""
    indices = {3, 25}  # from a checkpoint
    bad_files = BadFiles(make_images(tmp_path), 0.1, tmp_path / "bad.txt", indices)
    assert bad_files.sync_across_ranks() == 1
    assert indices == {3}


def test_too_many_files_end_the_run(tmp_path):
    bad_files = BadFiles(make_images(tmp_path), 0.1, tmp_path / "bad.txt", set())
    bad_files.add([(0, ""), (1, ""), (2, "")])
    with pytest.raises(UserError, match=r"3 of 20 files cannot be decoded.*max_bad_fraction=0.1 allows: .*a/0.png"):
        bad_files.sync_across_ranks()


def test_an_unwritable_report_is_a_warning(tmp_path, capfd):
    (tmp_path / "file").touch()
    bad_files = BadFiles(make_images(tmp_path), 0.1, tmp_path / "file" / "bad.txt", set())
    bad_files.add([(0, "")])
    assert bad_files.sync_across_ranks() == 1
    assert "could not be written" in capfd.readouterr().out


RANK = """
import sys
from pathlib import Path
from accelerate import PartialState
from dataset.bad_files import BadFiles
from tests.dataset.test_bad_files import make_images

state, folder = PartialState(cpu=True), Path(sys.argv[1])
indices = set()
bad_files = BadFiles(make_images(folder), 0.5, folder / "bad.txt", indices)
counts = [bad_files.sync_across_ranks()]
bad_files.add([(1, ""), (4 + state.process_index, "")] if state.process_index < 2 else [])
counts.append(bad_files.sync_across_ranks())
(folder / f"rank{state.process_index}.txt").write_text(f"{counts} {sorted(indices)}")
state.wait_for_everyone()
state.destroy_process_group()
"""


@pytest.mark.slow
def test_ranks_learn_each_others_files(tmp_path):
    (tmp_path / "rank.py").write_text(RANK)
    run(tmp_path / "rank.py", tmp_path, processes=3)
    for rank in range(3):
        assert (tmp_path / f"rank{rank}.txt").read_text() == "[0, 3] [1, 4, 5]"
    assert len((tmp_path / "bad.txt").read_text().splitlines()) == 3
