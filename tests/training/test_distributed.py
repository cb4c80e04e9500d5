"""Precision and the agreement of ranks."""

import pytest

from tests.support import toy
from tests.support.launch import run
from tests.support.paths import ROOT
from tests.support.trainings import generator_trainer
from utils.errors import UserError


def test_yaml_no_means_no_mixed_precision(tmp_path):
    assert generator_trainer(tmp_path, "run", "training.mixed_precision=no").accelerator.mixed_precision == "no"
    with pytest.raises(UserError, match="needs a GPU"):
        generator_trainer(tmp_path, "run", "training.mixed_precision=fp16")


def test_ranks_that_disagree_are_told_at_start(tmp_path):
    """One rank reads another configuration: an error at once, not a wait for the other."""
    toy.write_token_cache(tmp_path / "cache")
    for rank, batch in enumerate((4, 5)):
        toy.write_ar_config(tmp_path / f"rank{rank}.yaml", per_gpu_batch_size=batch)
    script = tmp_path / "differing.py"
    script.write_text(
        "import os, runpy, sys\n"
        f"sys.argv[0:2] = ['train_ar.py', 'config={tmp_path}/rank' + os.environ['RANK'] + '.yaml']\n"
        f"sys.path.insert(0, '{ROOT}')\n"
        f"runpy.run_path('{ROOT}/train_ar.py', run_name='__main__')\n"
    )
    result = run(
        *(script, "config=replaced", f"dataset.params.pretokenization={tmp_path / 'cache'}"),
        *(f"experiment.output_dir={tmp_path / 'out'}", "experiment.tokenizer_checkpoint=none"),
        processes=2,
        check=False,
    )
    assert result.returncode != 0
    assert result.stderr.count("the ranks do not agree on training.per_gpu_batch_size. All machines need") == 2
    assert result.stderr.count("(training.per_gpu_batch_size: 4 on rank 0, 5 on rank 1)") == 2
