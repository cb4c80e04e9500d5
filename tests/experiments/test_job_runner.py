"""Lists of jobs: finished ones are skipped, changed ones run again, several run at a time."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from experiments.job_runner import Job, JobRunner, job_seconds
from tests.support.launch import held
from tests.support.paths import ROOT
from utils.errors import UserError
from utils.folder_lock import exclusive_lock

# Writes its second argument to its first, and a character to its third.
WRITE = "import sys, pathlib; pathlib.Path(sys.argv[1]).write_text(sys.argv[2]); open(sys.argv[3], 'a').write('x')"


@pytest.fixture
def pair(tmp_path):
    """Two jobs, the second reads the first one's output; each adds to a log when it runs."""
    (tmp_path / "config").write_text("1")
    one, two = tmp_path / "one", tmp_path / "two"
    jobs = [
        Job("First: it", ("-c", WRITE, str(one), "made", str(tmp_path / "log1")), (one,), (tmp_path / "config",)),
        Job("second", ("-c", WRITE, str(two), "made", str(tmp_path / "log2")), (two,), (one,)),
    ]

    def runs(**options) -> tuple[int, int]:
        JobRunner(jobs, tmp_path / "out", **options).run()
        return tuple(len((tmp_path / f"log{i}").read_text()) for i in (1, 2))

    return runs, jobs, tmp_path


@pytest.mark.parametrize("parallel", [1, 3])
def test_finished_jobs_are_skipped_until_something_changes(pair, parallel):
    runs, _, folder = pair
    assert runs(parallel=parallel) == (1, 1)
    assert runs(parallel=parallel) == (1, 1)
    (folder / "two").unlink()
    assert runs(parallel=parallel) == (1, 2)
    (folder / "config").write_text("2")  # the first writes the same content again, so the second stays done
    assert runs(parallel=parallel) == (2, 2)
    (folder / "one").unlink()
    assert runs(parallel=parallel) == (3, 2)
    assert list(job_seconds(folder / "out")) == ["First: it", "second"]


def test_an_interrupted_job_finds_its_outputs_unless_its_inputs_changed(pair):
    runs, jobs, folder = pair
    runs()
    stamp = folder / "out" / "jobs" / "first-it.json"
    record = json.loads(stamp.read_text()) | {"done": False}
    assert jobs[0].key() == record["key"]
    command = ("-c", "import sys, os; print(os.path.exists(sys.argv[1]))", str(folder / "one"))
    jobs[0] = Job(jobs[0].name, command, jobs[0].outputs)
    stamp.write_text(json.dumps(record | {"key": jobs[0].key()}))
    runs(log_to_files=True)
    assert (folder / "out" / "jobs" / "first-it.log").read_text() == "True\n"
    stamp.write_text(json.dumps(record | {"key": "another command's"}))
    runs(log_to_files=True)
    assert (folder / "out" / "jobs" / "first-it.log").read_text() == "True\nFalse\n"


def test_jobs_run_in_parallel_and_wait_for_their_inputs(tmp_path, monkeypatch, capsys):
    """Two of three jobs overlap in time, each with its share of the cores; the third starts after both."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    clock = "import sys, os, time; a = time.time(); time.sleep(1); print(a, time.time(), os.environ['OMP_NUM_THREADS'],"
    clock += " file=open(sys.argv[1], 'w'))"
    paths = [tmp_path / name for name in ("a", "b", "c")]
    jobs = [Job(p.name, ("-c", clock, str(p)), (p,)) for p in paths[:2]]
    jobs.append(Job("c", ("-c", clock, str(paths[2])), (paths[2],), (paths[0], paths[1] / "file within")))
    done = []
    JobRunner(jobs, tmp_path / "out", parallel=2, log_to_files=True, on_done=done.append).run()
    (a, a_end, threads), (b, b_end, _), (c, _, _) = (map(float, p.read_text().split()) for p in paths)
    assert max(a, b) < min(a_end, b_end)
    assert c > max(a_end, b_end)
    assert threads == max(1, len(os.sched_getaffinity(0)) // 2)
    assert {job.name for job in done} == {"a", "b", "c"}
    lines = capsys.readouterr().out.splitlines()
    assert all("min left" in line for line in lines[:2])
    assert "min left" not in lines[2]


def test_one_at_a_time_keeps_the_order_of_the_list(tmp_path):
    """Also if the last job needs nothing and the one before it waits for a job that was done before."""
    log = tmp_path / "log"
    code = "import sys; open(sys.argv[1], 'w'); open(sys.argv[2], 'a').write(sys.argv[3])"
    a, b = tmp_path / "a", tmp_path / "b"
    jobs = [
        Job("A", ("-c", code, str(a), str(log), "A"), (a,)),
        Job("B", ("-c", code, str(b), str(log), "B"), (b,), (a,)),
        Job("C", ("-c", code, str(tmp_path / "c"), str(log), "C")),
    ]
    JobRunner(jobs, tmp_path).run()
    b.unlink()
    JobRunner(jobs, tmp_path).run()
    assert log.read_text() == "ABCBC"


def test_templates_are_split_before_values_are_filled_in(tmp_path):
    folder = tmp_path / "a folder"
    job = Job.from_templates("job {n}", "x.py --to\n  {out}/b", "{out}/b {out}/c", out=folder, n=1)
    assert job == Job("job 1", ("x.py", "--to", f"{folder}/b"), (folder / "b", folder / "c"))


def test_two_jobs_with_one_file_name_are_refused(tmp_path):
    with pytest.raises(ValueError, match="same file name"):
        JobRunner([Job("a b", ("-c", "")), Job("A: b", ("-c", ""))], tmp_path).run()


@pytest.mark.slow
def test_two_runs_in_one_folder_are_refused(tmp_path):
    with held(tmp_path), pytest.raises(UserError, match="another run is at work in"), exclusive_lock(tmp_path):
        pass
    with exclusive_lock(tmp_path):  # a killed run holds nothing
        pass


def test_a_failed_job_stops_the_others_and_its_log_is_named(tmp_path):
    marker = tmp_path / "marker"
    patient = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: (open(sys.argv[1], 'w'), sys.exit()))"
    jobs = [
        Job("patient", ("-c", f"{patient}; time.sleep(60)", str(marker))),
        Job("bad", ("-c", "import time; time.sleep(1); raise SystemExit('no such thing')")),
    ]
    started = time.perf_counter()
    with pytest.raises(UserError, match=r"'bad' failed with exit code 1 \(its output is in .*bad.log\)"):
        JobRunner(jobs, tmp_path / "out", parallel=2, log_to_files=True).run()
    assert marker.exists()
    assert time.perf_counter() - started < 30
    assert "no such thing" in (tmp_path / "out" / "jobs" / "bad.log").read_text()


@pytest.mark.slow
def test_sigterm_reaches_the_running_job(tmp_path):
    code = (
        "import sys; from pathlib import Path; from utils.errors import entry_point;"
        "from experiments.job_runner import *;"
        "entry_point(lambda: JobRunner([Job('long', ('-c', sys.argv[1], sys.argv[2]))], Path(sys.argv[2])).run())()"
    )
    job = (
        "import signal, sys, time, pathlib; folder = pathlib.Path(sys.argv[1]);"
        "signal.signal(signal.SIGTERM, lambda *_: ((folder / 'saved').touch(), sys.exit(143)));"
        "(folder / 'started').touch(); time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, job, str(tmp_path)], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    while not (tmp_path / "started").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert "error: interrupted; run the same command to resume" in process.communicate(timeout=30)[1]
    assert process.returncode == 2
    assert (tmp_path / "saved").exists()
    assert not json.loads((tmp_path / "jobs" / "long.json").read_text())["done"]


def test_a_changed_base_file_is_a_changed_input(tmp_path):
    (tmp_path / "base.yaml").write_text("a: 1\n")
    (tmp_path / "own.yaml").write_text("base: base.yaml\nb: 1\n")
    job = Job("job", ("-c", "pass"), inputs=(tmp_path / "own.yaml",))
    before = job.key()
    assert job.key() == before
    (tmp_path / "base.yaml").write_text("a: 2\n")
    assert job.key() != before
