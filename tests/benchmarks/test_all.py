"""`benchmarks.all` and `benchmarks.tables`: a rehearsal at toy size, failures, time limits, resuming."""

import json
import time
from argparse import Namespace
from pathlib import Path

import pytest

from benchmarks.all import Benchmarks, main, start_process
from benchmarks.goals import GOALS, NOT_MEASURED
from benchmarks.machine import describe_machine
from benchmarks.parts import PARTS, Part
from benchmarks.report import Report
from benchmarks.tables import TABLES, goals_table, read_results, tables
from tests.support.forked import Script
from tests.support.launch import ENVIRONMENT
from tests.support.paths import ROOT
from utils.atomic import read_json, write_json
from utils.errors import UserError

# One part of each kind; the others differ in their configuration.
REHEARSED = ("correctness", "sampling_alitok_b", "sampling_titok_l32", "training_b", "tokenizer_stage2")
REHEARSED += ("pretokenization", "evaluation", "evaluation_precision", "memory_b")

WRITE_ROW = "import json, sys; json.dump({'machine': %s, 'rows': [{'n': 1}]}, open(sys.argv[-1], 'w'));"
END = {
    "good": "print('fine')",
    "bad": "print('a'); sys.exit('the reason')",
    "slow": "import time; print('working', flush=True); time.sleep(60)",
    "never": "raise SystemExit('a part that was finished before was started again')",
}


def start_forked(command: list[str], log: Path) -> Script:
    return Script(command, ENVIRONMENT, log, log.with_suffix(".stderr"))


def start_code(machine: dict):
    """A start that runs, in place of a benchmark, one that writes a row and ends as its name says."""

    def start(command: list[str], log: Path):
        name = command[1].removeprefix("benchmarks.")
        rows = Path(command[-1])
        rows.parent.mkdir(exist_ok=True)
        return start_process(["-c", WRITE_ROW % machine + END[name], str(rows)], log)

    return start


@pytest.fixture
def machine() -> dict:
    return describe_machine()


@pytest.mark.slow
def test_a_rehearsal_at_toy_size(tmp_path):
    parts = [part for part in PARTS if part.name in REHEARSED]
    assert Benchmarks(tmp_path, 10, parts, toy=True, start=start_forked).run() == []
    contents = read_results(tmp_path)
    assert contents.keys() == set(REHEARSED)
    [skipped] = contents["correctness"]["rows"]
    assert (skipped["test"], skipped["outcome"]) == ("test_one_batch_at_a_time", "skipped")
    assert "no GPU" in skipped["reason"]
    one, two = contents["sampling_alitok_b"]["rows"]
    assert (one["batch"], two["batch"]) == (1, 2)
    assert one["codes_s"] == pytest.approx(73 * one["stage_ms"] / 1e3)
    assert one["minutes"] == pytest.approx((one["first_batches_s"] + 50_000 / one["images_per_s"]) / 60, rel=1e-6)
    [training] = contents["training_b"]["rows"]
    assert training["images_per_s"] == pytest.approx(2e3 / training["step_ms"])
    assert training["ratio"] == pytest.approx(training["images_per_s"] / training["plain_images_per_s"])
    assert 0 < training["of_measured_peak"] < 1
    assert contents["memory_b"]["rows"][0]["counted_gib"] > 0
    text = tables(tmp_path)
    for table in TABLES:
        assert (f"### {table.title}\n" in text) == any(part in REHEARSED for part in table.parts), table.title
    assert f"| {one['stage_ms']:,.2f} |" in text
    assert "0 passed, 0 failed, 1 skipped" in text
    assert f"{training['of_measured_peak']:.0%}" in "\n".join(goals_table(contents))
    assert "Not finished" not in text
    assert contents["training_b"]["machine"]["torch"] in text.splitlines()[0]


def test_a_part_that_fails_or_is_slow_loses_only_itself(tmp_path, machine, capfd):
    parts = [Part(name, name, "", weight) for name, weight in (("bad", 1), ("slow", 1), ("good", 8))]
    began = time.monotonic()
    assert Benchmarks(tmp_path, 10 / 60, parts, start=start_code(machine)).run() == ["bad", "slow"]
    assert time.monotonic() - began < 10
    bad, slow, good = (read_json(tmp_path / f"{part.name}.json") for part in parts)
    assert [part["status"] for part in (bad, slow, good)] == ["failed with exit code 1", "out of time", "done"]
    assert bad["last_lines"] == ["a", "the reason"]
    assert [part["rows"] for part in (bad, slow, good)] == [[{"n": 1}]] * 3
    shown = capfd.readouterr().out
    assert "[2/3] slow, at most 1 s\nworking\n[2/3] slow: out of time\n" in shown
    assert "[3/3] good: done" in shown
    # Again: only what did not finish.
    parts = [Part("bad", "good", "", 1), Part("good", "good", "", 8)]
    only_bad = start_code(machine)

    def start(command: list[str], log: Path):
        assert log.stem == "bad"
        return only_bad(command, log)

    assert Benchmarks(tmp_path, 1, parts, start=start).run() == []
    assert "1 of 2 parts were finished before" in capfd.readouterr().out


def test_another_command_is_run_again(tmp_path, machine):
    assert Benchmarks(tmp_path, 1, [Part("x", "good", "", 1)], start=start_code(machine)).run() == []
    assert Benchmarks(tmp_path, 1, [Part("x", "never", "", 1)], start=start_code(machine)).run() == ["x"]


def test_results_of_two_machines_are_not_mixed(tmp_path, machine):
    write_json(tmp_path / "x.json", {"machine": machine | {"device": "another"}, "rows": [], "status": "failed"})
    with pytest.raises(UserError, match=r"x\.json was measured with device another, and here it is .*another --output"):
        Benchmarks(tmp_path, 1, [Part("x", "good", "", 1)], start=start_code(machine)).run()


def test_every_part_has_its_place(tmp_path):
    """In a table, with a benchmark that exists; every goal is in the documentation."""
    shown = {part for table in TABLES for part in table.parts} | {"correctness"}
    assert shown == {part.name for part in PARTS}
    for part in PARTS:
        assert part.command.split()[0] == part.toy.split()[0]
        assert (ROOT / "benchmarks" / f"{part.command.split()[0]}.py").is_file()
    assert {part for goal in GOALS for part in goal.parts} < {part.name for part in PARTS}
    documentation = (ROOT / "docs" / "benchmarks.md").read_text()
    for goal in GOALS:
        assert f"| {goal.what} | {goal.goal} |" in documentation
    with pytest.raises(UserError, match="holds no results"):
        tables(tmp_path)


def test_goals_are_measured_by_the_best_batch_and_the_slowest_phase():
    batches = [{"minutes": 5.0, "over_floor": 3.0}, {"minutes": 4.0, "over_floor": None}, {}]
    contents = {
        "sampling_alitok_b": {"status": "out of time", "rows": batches},
        "tokenizer_stage1": {"status": "done", "rows": [{"ratio": 3.0}, {"ratio": 2.5}]},
    }
    measured = {goal.what: goal.measured(contents) for goal in GOALS}
    assert measured["50,000 images of AliTok-B with decoding"] == "4.00 min"
    assert measured["codes of AliTok-B, over the memory's floor"] == "3.00 times"
    slowest = "a tokenizer step over eager float32, the slowest phase"
    assert measured[slowest] == NOT_MEASURED  # stage 2 is missing
    contents["tokenizer_stage2"] = {"status": "out of time", "rows": [{"ratio": 2.75}]}
    assert {goal.what: goal.measured(contents) for goal in GOALS}[slowest] == NOT_MEASURED  # nor all its phases
    contents["tokenizer_stage2"]["status"] = "done"
    assert {goal.what: goal.measured(contents) for goal in GOALS}[slowest] == "2.50 times"


def test_rows_are_written_as_they_come(tmp_path):
    """A number that is none becomes null, which other readers of JSON understand."""
    report = Report(Namespace(json=tmp_path / "rows.json", batch=3))
    report.add("one", n=float("nan"))
    assert json.loads((tmp_path / "rows.json").read_text())["rows"] == [{"n": None}]
    report.add("two", n=2)
    content = json.loads((tmp_path / "rows.json").read_text())
    assert content["rows"] == [{"n": None}, {"n": 2}]
    assert content["arguments"] == {"batch": 3}


def test_sizes_for_a_gpu_are_not_tried_without_one(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["all.py", "--output", str(tmp_path / "out")])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "there is no GPU here" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
