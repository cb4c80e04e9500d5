"""Numbers reach metrics.jsonl whatever happens to wandb."""

import pytest

from tests.support.launch import run
from training.logging import Logger, read_log

CONFIG = {"experiment": {"project": "test", "name": "run"}}
OFFLINE = {"WANDB_MODE": "offline"}
UNREACHABLE = {"WANDB_MODE": "online", "WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9"}
LOG_ONE_LINE = """
import sys
from training import logging as tracking
tracking.WANDB_TIMEOUT = 2
config = {"experiment": {"project": "test", "name": "run"}}
step = len(sys.argv) - 2
tracker = tracking.Logger(sys.argv[1], config, use_wandb=True, enabled=True, first_step=step)
tracker.log(1, {"loss": 0.5})
tracker.close()
"""


@pytest.mark.slow
@pytest.mark.parametrize(("environment", "warns"), [(OFFLINE, False), (UNREACHABLE, True)])
def test_wandb_offline_and_unreachable(tmp_path, environment, warns):
    """Offline by WANDB_MODE, or because no server answers: both leave a run that can be synchronised later."""
    output = run("-c", LOG_ONE_LINE, tmp_path, environment=environment | {"WANDB_SILENT": "true"}).stdout
    assert read_log(tmp_path) == [{"step": 1, "loss": 0.5}]
    assert list((tmp_path / "wandb").glob("offline-run-*/run-*.wandb"))
    assert "numbers only go to" not in output
    assert ("wandb cannot be reached" in output) == warns


@pytest.mark.slow
def test_a_resumed_training_continues_its_wandb_run(tmp_path):
    quiet = OFFLINE | {"WANDB_SILENT": "true"}
    ids = []
    for resumed in ((), ("resumed",), ()):
        run("-c", LOG_ONE_LINE, tmp_path, *resumed, environment=quiet)
        ids.append((tmp_path / "wandb_run_id.txt").read_text().strip())
    assert ids[0] == ids[1]
    assert ids[1] != ids[2]
    named = [folder.name.rpartition("-")[2] for folder in (tmp_path / "wandb").glob("offline-run-*")]
    assert set(named) == set(ids)


def test_tensorboard_has_the_numbers(tmp_path):
    tracker = Logger(tmp_path, CONFIG, use_wandb=False, enabled=True)
    tracker.log(1, {"loss": 0.5})
    tracker.close()
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_a_fresh_start_sets_older_numbers_aside(tmp_path):
    for first, last in ((0, 40), (40, 50), (0, 8), (0, 3)):
        tracker = Logger(tmp_path, CONFIG, use_wandb=False, enabled=True, first_step=first)
        tracker.log(last, {"val_loss": last / 10})
        tracker.close()
    assert read_log(tmp_path) == [{"step": 3, "val_loss": 0.3}]
    kept = [(tmp_path / f"metrics.{n}.jsonl").read_text().count("val_loss") for n in (1, 2)]
    assert kept == [2, 1]
    assert not (tmp_path / "metrics.3.jsonl").exists()
