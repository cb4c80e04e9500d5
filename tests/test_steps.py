"""Pipelines of commands: what is done stays done, what changed is done anew, several go on at once."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.job_runner import Step, run_steps, step_seconds
from tests.support.launch import held
from tests.support.paths import ROOT
from utils.errors import UserError
from utils.folder_lock import exclusive_lock

# Writes its second argument to its first, and a line to its third.
WRITE = "import sys, pathlib; pathlib.Path(sys.argv[1]).write_text(sys.argv[2]); open(sys.argv[3], 'a').write('x')"


@pytest.fixture
def pair(tmp_path):
    """Two steps, the second reading the first's output; each appends to a log when it runs."""
    (tmp_path / "config").write_text("1")
    one, two = tmp_path / "one", tmp_path / "two"
    steps = [
        Step("First: it", ("-c", WRITE, str(one), "made", str(tmp_path / "log1")), (one,), (tmp_path / "config",)),
        Step("second", ("-c", WRITE, str(two), "made", str(tmp_path / "log2")), (two,), (one,)),
    ]

    def runs(**options) -> tuple[int, int]:
        run_steps(steps, tmp_path / "out", **options)
        return tuple(len((tmp_path / f"log{i}").read_text()) for i in (1, 2))

    return runs, steps, tmp_path


@pytest.mark.parametrize("jobs", [1, 3])
def test_finished_steps_are_skipped_until_something_changes(pair, jobs):
    runs, _, folder = pair
    assert runs(jobs=jobs) == (1, 1)
    assert runs(jobs=jobs) == (1, 1)
    (folder / "two").unlink()
    assert runs(jobs=jobs) == (1, 2)
    (folder / "config").write_text("2")  # the first makes the same again, so the second stays
    assert runs(jobs=jobs) == (2, 2)
    (folder / "one").unlink()
    assert runs(jobs=jobs) == (3, 2)
    assert list(step_seconds(folder / "out")) == ["First: it", "second"]


def test_an_interrupted_step_keeps_its_results_unless_its_inputs_changed(pair):
    runs, steps, folder = pair
    runs()
    stamp = folder / "out" / "steps" / "first-it.json"
    record = json.loads(stamp.read_text()) | {"done": False}
    stamp.write_text(json.dumps(record))
    seen = Step(steps[0].name, ("-c", "import sys, os; print(os.path.exists(sys.argv[1]))", str(folder / "one")))
    assert steps[0].key() == record["key"]  # goes on with what is there
    steps[0] = Step(seen.name, seen.command, steps[0].outputs)
    stamp.write_text(json.dumps(record | {"key": steps[0].key()}))
    runs(capture=True)
    assert (folder / "out" / "steps" / "first-it.log").read_text() == "True\n"
    stamp.write_text(json.dumps(record | {"key": "another command's"}))
    runs(capture=True)
    assert (folder / "out" / "steps" / "first-it.log").read_text() == "True\nFalse\n"


def test_steps_go_on_side_by_side_and_wait_for_what_they_read(tmp_path):
    """Of three steps two overlap in time, each with its share of the cores; the third comes after both."""
    clock = "import sys, os, time; a = time.time(); time.sleep(1); print(a, time.time(), os.environ['OMP_NUM_THREADS'],"
    clock += " file=open(sys.argv[1], 'w'))"
    paths = [tmp_path / name for name in ("a", "b", "c")]
    steps = [Step(p.name, ("-c", clock, str(p)), (p,)) for p in paths[:2]]
    steps.append(Step("c", ("-c", clock, str(paths[2])), (paths[2],), (paths[0], paths[1] / "file within")))
    before = os.environ.pop("OMP_NUM_THREADS", None)
    try:
        finished = []
        run_steps(steps, tmp_path / "out", jobs=2, capture=True, finished=finished.append)
    finally:
        if before is not None:
            os.environ["OMP_NUM_THREADS"] = before
    (a, a_end, threads), (b, b_end, _), (c, _, _) = (map(float, p.read_text().split()) for p in paths)
    assert max(a, b) < min(a_end, b_end)
    assert c > max(a_end, b_end)
    assert threads == max(1, len(os.sched_getaffinity(0)) // 2)
    assert {s.name for s in finished} == {"a", "b", "c"}


def test_one_at_a_time_keeps_the_order_of_the_list(tmp_path):
    """Also where a step that reads nothing comes after one that waits for a step done before."""
    log = tmp_path / "log"
    code = "import sys; open(sys.argv[1], 'w'); open(sys.argv[2], 'a').write(sys.argv[3])"
    a, b = tmp_path / "a", tmp_path / "b"
    steps = [
        Step("A", ("-c", code, str(a), str(log), "A"), (a,)),
        Step("B", ("-c", code, str(b), str(log), "B"), (b,), (a,)),
        Step("C", ("-c", code, str(tmp_path / "c"), str(log), "C")),
    ]
    run_steps(steps, tmp_path)
    b.unlink()
    run_steps(steps, tmp_path)
    assert log.read_text() == "ABCBC"


def test_two_runs_in_one_folder_are_refused(tmp_path):
    with held(tmp_path), pytest.raises(UserError, match="another run is at work in"), exclusive_lock(tmp_path):
        pass
    with exclusive_lock(tmp_path):  # a killed run holds nothing
        pass


def test_a_failing_step_stops_the_others_and_says_where_to_look(tmp_path, capfd):
    marker = tmp_path / "marker"
    patient = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: (open(sys.argv[1], 'w'), sys.exit()))"
    steps = [
        Step("patient", ("-c", f"{patient}; time.sleep(60)", str(marker))),
        Step("bad", ("-c", "import time; time.sleep(1); raise SystemExit('no such thing')")),
    ]
    begun = time.perf_counter()
    with pytest.raises(UserError, match=r"'bad' ended with exit code 1 \(the end of .*bad.log says why\)"):
        run_steps(steps, tmp_path / "out", jobs=2, capture=True)
    assert marker.exists() and time.perf_counter() - begun < 30
    assert "no such thing" in (tmp_path / "out" / "steps" / "bad.log").read_text()


def test_sigterm_reaches_the_running_step(tmp_path):
    code = (
        "import sys; from pathlib import Path; from utils.errors import entry_point;"
        "from experiments.job_runner import *;"
        "entry_point(lambda: run_steps([Step('long', ('-c', sys.argv[1], sys.argv[2]))], Path(sys.argv[2])))()"
    )
    step = (
        "import signal, sys, time, pathlib; folder = pathlib.Path(sys.argv[1]);"
        "signal.signal(signal.SIGTERM, lambda *_: ((folder / 'saved').touch(), sys.exit(143)));"
        "(folder / 'begun').touch(); time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, step, str(tmp_path)], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    while not (tmp_path / "begun").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert "error: interrupted; the same command goes on from here" in process.communicate(timeout=30)[1]
    assert process.returncode == 2 and (tmp_path / "saved").exists()
    assert not json.loads(Path(tmp_path / "steps" / "long.json").read_text())["done"]
