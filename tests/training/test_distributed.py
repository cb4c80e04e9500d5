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


# Two ranks: a data set is listed by one of them; drift of a replicated tensor is told from damage.
TWO_RANKS = """
import os, sys
import torch, torch.distributed as dist
from accelerate import Accelerator
from dataset.images import NoSuchSplit, list_images, list_images_together
from training.distributed import require_equal
from utils.errors import UserError

data, walked = sys.argv[1], []
accelerator = Accelerator(cpu=True)
rank = accelerator.process_index
sys.addaudithook(lambda event, values: walked.append(values[0]) if event in ("os.scandir", "os.listdir") else None)
images = list_images_together(data, "train")
assert any(str(path).startswith(data) for path in walked) == (rank == 0), (rank, walked)
assert images.fingerprint() == list_images(data, "train").fingerprint()
assert (images.labels == list_images(data, "train").labels).all()
try:
    list_images_together(data, "absent")
    raise AssertionError("no error")
except NoSuchSplit as error:
    assert "absent" in str(error)

codebook = torch.linspace(-1, 1, 12).view(4, 3)
require_equal(accelerator, codebook * (1 + rank * 2**-23), "the codebook", "Stop")
for other in (codebook + 0.01 * rank, codebook.masked_fill(codebook > 0.9, float("nan")) if rank else codebook):
    try:
        require_equal(accelerator, other, "the codebook", "Resume")
        raise AssertionError("no error")
    except UserError as error:
        assert "the ranks do not agree on the codebook: it differs by" in str(error)
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_one_rank_lists_the_data_and_rounding_is_no_damage(tmp_path, few_images):
    script = tmp_path / "two_ranks.py"
    script.write_text(TWO_RANKS)
    run(script, few_images, processes=2)
