"""The quickstart's list of steps."""

from pathlib import Path

from experiments.quickstart import run as quickstart
from tests.support.paths import ROOT


def test_every_step_runs_a_script_that_exists_after_those_whose_results_it_reads():
    steps = quickstart.pipeline(Path("data"), Path("out"), None)
    made: set[Path] = set()
    for step in steps:
        script = step.script if step.command[0] != "-m" else step.script.replace(".", "/") + ".py"
        assert (ROOT / script).is_file(), step.name
        for path in step.inputs:
            assert path.parts[0] == "configs" or {path, *path.parents} & made, f"{step.name} reads {path}"
        made |= set(step.outputs)
    assert len({step.slug for step in steps}) == len(steps)
