"""The quickstart's bookkeeping: what is done stays done, what changed is done anew."""

import json
import sys
from pathlib import Path

import pytest

from quickstart import run as quickstart


@pytest.fixture
def steps(tmp_path, monkeypatch):
    """Two steps, the second reading the first's output; each appends to a log when it runs."""
    code = "import sys, pathlib; pathlib.Path(sys.argv[1]).write_text(sys.argv[2]); open(sys.argv[3], 'a').write('x')"
    (tmp_path / "config").write_text("1")
    one, two = tmp_path / "one", tmp_path / "two"

    def pipeline(data: Path, output: Path, source):
        return [
            quickstart.Step(
                "first", ("-c", code, str(one), "made", str(tmp_path / "log1")), (one,), (tmp_path / "config",)
            ),
            quickstart.Step("second", ("-c", code, str(two), "made", str(tmp_path / "log2")), (two,), (one,)),
        ]

    monkeypatch.setattr(quickstart, "pipeline", pipeline)
    monkeypatch.setattr(sys, "argv", ["run", "--output", str(tmp_path / "out")])

    def runs() -> tuple[int, int]:
        quickstart.main()
        return tuple(len((tmp_path / f"log{i}").read_text()) for i in (1, 2))

    return runs, tmp_path


def test_finished_steps_are_skipped_until_something_changes(steps):
    runs, folder = steps
    assert runs() == (1, 1)
    assert runs() == (1, 1)
    (folder / "two").unlink()
    assert runs() == (1, 2)
    (folder / "config").write_text("2")  # the first makes the same again, so the second stays
    assert runs() == (2, 2)
    (folder / "one").unlink()
    assert runs() == (3, 2)


def test_an_interrupted_step_keeps_its_results_unless_its_inputs_changed(steps):
    runs, folder = steps
    runs()
    stamp = folder / "out" / "steps" / "01.json"
    record = json.loads(stamp.read_text()) | {"done": False}
    stamp.write_text(json.dumps(record))
    (folder / "one").write_text("half")
    step = quickstart.pipeline(folder, folder, None)[0]
    assert step.key() == record["key"]  # goes on with what is there
    assert runs()[0] == 2
    (folder / "config").write_text("2")
    assert step.key() != record["key"]
    step.remove_outputs()
    assert not (folder / "one").exists()


def test_a_failing_step_ends_with_one_line(steps, capfd, monkeypatch):
    failing = [quickstart.Step("bad", ("-c", "raise SystemExit(3)"))]
    monkeypatch.setattr(quickstart, "pipeline", lambda *_: failing)
    with pytest.raises(SystemExit) as caught:
        quickstart.main()
    assert caught.value.code == 2
    assert "error: 'bad' ended with exit code 3" in capfd.readouterr().err


def test_every_step_runs_a_script_that_exists():
    from tests.conftest import ROOT

    for step in quickstart.pipeline(Path("data"), Path("out"), None):
        script = step.command[1].replace(".", "/") + ".py" if step.command[0] == "-m" else step.command[0]
        assert (ROOT / script).is_file(), step.name
