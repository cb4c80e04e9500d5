"""The quickstart's list of jobs and its report."""

from pathlib import Path

import numpy as np
import pytest

from experiments.quickstart.report import within_class_distance
from experiments.quickstart.run import quickstart_jobs
from tests.support.paths import ROOT


def test_each_job_runs_an_existing_script_after_the_jobs_that_write_its_inputs():
    jobs = quickstart_jobs(Path("data"), Path("out"), None)
    made: set[Path] = set()
    for job in jobs:
        script = job.script if job.command[0] != "-m" else job.script.replace(".", "/") + ".py"
        assert (ROOT / script).is_file(), job.name
        for path in job.inputs:
            exists = path.parts[0] == "configs" and (ROOT / path).is_file()
            assert exists or {path, *path.parents} & made, f"{job.name} reads {path}"
        made |= set(job.outputs)
    assert len({job.file_name for job in jobs}) == len(jobs)


def test_a_source_folder_goes_to_the_job_that_makes_the_data():
    [first, *others] = quickstart_jobs(Path("data"), Path("out"), Path("my files"))
    assert first.command[-2:] == ("--source", "my files")
    assert others == quickstart_jobs(Path("data"), Path("out"), None)[1:]


def test_within_class_distance_is_that_of_independent_pairs():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 200)
    images = rng.integers(0, 256, (400, 8, 8, 3)).astype(np.uint8)
    pairs = (images[:100].astype(float) - images[100:200]) / 255
    assert within_class_distance(images, labels) == pytest.approx(np.sqrt((pairs**2).mean()), rel=0.02)
    assert within_class_distance(np.repeat(images[:2], 200, axis=0), labels) == pytest.approx(0, abs=1e-12)
