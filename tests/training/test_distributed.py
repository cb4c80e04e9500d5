"""Precision and the agreement of ranks."""

import pytest

from tests.support import toy
from tests.support.commands import train_ar
from tests.support.launch import run
from tests.support.trainings import generator_trainer
from utils.errors import UserError

# Runs the command in its arguments with its own rank in the place of {RANK}.
EACH_RANK_ITS_CONFIG = """
import os, runpy, sys
sys.argv = [word.replace("{RANK}", os.environ["RANK"]) for word in sys.argv[1:]]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_yaml_no_means_no_mixed_precision(tmp_path):
    assert generator_trainer(tmp_path, "run", "training.mixed_precision=no").accelerator.mixed_precision == "no"
    with pytest.raises(UserError, match="needs a GPU"):
        generator_trainer(tmp_path, "run", "training.mixed_precision=fp16")


@pytest.mark.slow
def test_ranks_that_disagree_fail_at_start(tmp_path):
    """One rank reads another configuration: both report it at once, none waits for the other."""
    toy.write_token_cache(tmp_path / "cache")
    for rank, batch in enumerate((4, 5)):
        toy.write_ar_config(tmp_path / f"rank{rank}.yaml", per_gpu_batch_size=batch)
    script = tmp_path / "each_rank_its_config.py"
    script.write_text(EACH_RANK_ITS_CONFIG)
    command = train_ar(tmp_path / "rank{RANK}.yaml", tmp_path / "cache", tmp_path / "out")
    result = run(script, *command, processes=2, check=False)
    assert result.returncode != 0
    assert result.stderr.count("the ranks do not agree on training.per_gpu_batch_size. All machines need") == 2
    assert result.stderr.count("(training.per_gpu_batch_size: 4 on rank 0, 5 on rank 1)") == 2
