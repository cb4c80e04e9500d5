"""Sharded outputs: identity, shares, completion, and what a shared disk does."""

import json
import threading

import pytest
from accelerate import PartialState

from tests.support.launch import run
from utils import sharded_output
from utils.errors import UserError
from utils.sharded_output import ShardedOutput, background_writer, explain_write_errors


def open_output(folder, num_items: int = 10, **identity) -> ShardedOutput:
    return ShardedOutput(folder / "record.json", folder / "progress", {"seed": 1, **identity}, num_items, 4)


def finish_shard(output: ShardedOutput, shard: int) -> None:
    output.shard_file(shard).write_text("{}")


def test_shards_cover_every_item_once(tmp_path):
    output = open_output(tmp_path)
    assert output.num_shards == 3
    assert [list(output.items(shard)) for shard in range(3)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_finished_shards_are_kept_until_the_output_is_complete(tmp_path):
    output = open_output(tmp_path)
    assert not output.prepare()
    assert output.missing() == [0, 1, 2]
    finish_shard(output, 1)
    again = open_output(tmp_path)
    assert not again.prepare()
    assert again.claim(PartialState()) == [0, 2]
    again.mark_complete({**again.identity, "more": 7})
    assert open_output(tmp_path).prepare()
    assert json.loads((tmp_path / "record.json").read_text()) == {"seed": 1, "more": 7}
    assert not output.progress.exists()


def test_another_identity_is_refused_before_and_after_completion(tmp_path):
    output = open_output(tmp_path, names=("a", "b"))
    output.prepare()
    for _ in range(2):
        assert open_output(tmp_path, names=["a", "b"]).prepare() == output.record.is_file()
        with pytest.raises(UserError, match=r"made otherwise: names is \['a', 'b'\] there, \['a'\] now"):
            open_output(tmp_path, names=("a",)).prepare()
        with pytest.raises(UserError, match=r"made otherwise: seed is 1 there, 2 now"):
            open_output(tmp_path, seed=2).prepare()
        if output.progress.exists():
            output.mark_complete(output.identity)


def test_long_values_are_cut_in_the_error(tmp_path):
    open_output(tmp_path, seed="x" * 1000).prepare()
    with pytest.raises(UserError, match=r"seed is x{37}\.\.\. there, 1 now"):
        open_output(tmp_path).prepare()


def test_a_record_without_its_result_is_not_complete(tmp_path):
    arguments = (tmp_path / "record.json", tmp_path / "progress", {"seed": 1}, 4, 4)
    output = ShardedOutput(*arguments, result=tmp_path / "result")
    output.prepare()
    output.mark_complete(output.identity)
    assert not output.prepare()
    (tmp_path / "result").touch()
    assert output.prepare()
    assert not output.progress.exists()


def test_a_folder_of_something_else_is_refused_and_kept(tmp_path):
    """Unless nothing is in it but a plan that a kill left half written."""
    output = open_output(tmp_path)
    output.progress.mkdir()
    (output.progress / "plan.json.part").write_text("{")
    assert not output.prepare()
    foreign = output.progress / "thesis.txt"
    foreign.touch()
    output.mark_complete(output.identity)
    assert [path.name for path in output.progress.iterdir()] == ["thesis.txt"]
    assert open_output(tmp_path).prepare()
    output.record.unlink()
    with pytest.raises(UserError, match=r"progress/thesis.txt is there and was not made by this program"):
        open_output(tmp_path).prepare()
    assert foreign.is_file()


def test_the_main_process_decides_whether_an_output_is_complete(tmp_path, monkeypatch):
    """Another process takes over what it is sent, though it sees another state of the disk."""
    monkeypatch.setattr(sharded_output, "broadcast_object_list", lambda values: [not value for value in values])
    assert open_output(tmp_path).prepare_together(PartialState(cpu=True))


@pytest.mark.parametrize("content", ["{", "[]", ""])
def test_a_damaged_record_is_named(tmp_path, content):
    (tmp_path / "record.json").write_text(content)
    with pytest.raises(UserError, match=r"record.json is damaged"):
        open_output(tmp_path).prepare()


def test_only_the_main_process_writes(tmp_path):
    assert not open_output(tmp_path).prepare(main=False)
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_folder_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"plan.json could not be written"):
        open_output(tmp_path / "file").prepare()


def test_shards_of_other_machines_may_appear_late(tmp_path, monkeypatch):
    output = open_output(tmp_path, num_items=8)
    output.prepare()
    finish_shard(output, 0)
    late = threading.Timer(0.2, finish_shard, (output, 1))
    late.start()
    output.wait_for_shards()
    late.join()
    output.shard_file(1).unlink()
    monkeypatch.setattr(sharded_output, "VISIBILITY_TIMEOUT", 0.0)
    with pytest.raises(UserError, match=r"00001.json is not there: do all machines share"):
        output.wait_for_shards()


def test_the_background_writer_runs_one_call_at_a_time(tmp_path):
    running, most, done = [], [], []

    def write(shard: int) -> None:
        running.append(shard)
        most.append(len(running))
        running.remove(shard)
        done.append((shard, threading.current_thread() is threading.main_thread()))

    with background_writer() as submit:
        for shard in range(5):
            submit(write, shard)
    assert done == [(shard, False) for shard in range(5)]
    assert max(most) == 1


def test_errors_of_the_background_writer_are_raised():
    def fail() -> None:
        raise UserError("full")

    with pytest.raises(UserError, match="full"), background_writer() as submit:
        submit(fail)
    calls = []
    with pytest.raises(UserError, match="full"), background_writer() as submit:
        submit(fail)
        submit(calls.append, 1)
    assert calls == []


def test_write_errors_say_how_to_resume(tmp_path):
    message = r"x.npy could not be written .*free space and run the same command"
    with pytest.raises(UserError, match=message), explain_write_errors(tmp_path / "x.npy"):
        raise OSError(28, "No space left on device")


CLAIM = """
import json, sys
from pathlib import Path
from accelerate import PartialState
from utils.sharded_output import ShardedOutput

state, folder = PartialState(cpu=True), Path(sys.argv[1])
output = ShardedOutput(folder / "record.json", folder / "progress", {}, 28, 4)
output.prepare_together(state)
mine = output.claim(state)
for shard in mine:  # at once, while others may still be in `claim`
    output.shard_file(shard).write_text("{}")
(folder / f"rank{state.process_index}.json").write_text(json.dumps(mine))
state.wait_for_everyone()
state.destroy_process_group()
"""


@pytest.mark.slow
def test_processes_share_the_missing_shards(tmp_path):
    """Three processes: every missing shard is claimed once, and none that was finished before."""
    output = ShardedOutput(tmp_path / "record.json", tmp_path / "progress", {}, 28, 4)
    output.prepare()
    finish_shard(output, 2)
    script = tmp_path / "claim.py"
    script.write_text(CLAIM)
    assert "1 of 7 shards are there already" in run(script, tmp_path, processes=3).stdout
    shares = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(3)]
    assert sorted(shard for share in shares for shard in share) == [0, 1, 3, 4, 5, 6]
    assert [len(share) for share in shares] == [2, 2, 2]
