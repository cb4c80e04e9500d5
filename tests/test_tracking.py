"""Numbers reach metrics.jsonl whatever becomes of wandb."""

import pytest

from tests.launch import run
from utils.tracking import Tracker, read_log

CONFIG = {"experiment": {"project": "test", "name": "run"}}
OFFLINE = {"WANDB_MODE": "offline"}
UNREACHABLE = {"WANDB_MODE": "online", "WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9"}
LOG_ONE_LINE = """
import sys
from utils import tracking
tracking.WANDB_TIMEOUT = 2
config = {"experiment": {"project": "test", "name": "run"}}
tracker = tracking.Tracker(sys.argv[1], config, use_wandb=True, enabled=True)
tracker.log(1, {"loss": 0.5})
tracker.close()
"""


@pytest.mark.parametrize(("environment", "warns"), [(OFFLINE, False), (UNREACHABLE, True)])
def test_wandb_offline_and_unreachable(tmp_path, monkeypatch, environment, warns):
    """Offline by WANDB_MODE, or because nobody answers: both leave a run to be synchronised later."""
    output = run("-c", LOG_ONE_LINE, tmp_path, environment=environment | {"WANDB_SILENT": "true"}).stdout
    assert read_log(tmp_path) == [{"step": 1, "loss": 0.5}]
    assert list((tmp_path / "wandb").glob("offline-run-*"))
    assert ("wandb cannot be reached" in output) == warns


def test_tensorboard_has_the_numbers(tmp_path):
    tracker = Tracker(tmp_path, CONFIG, use_wandb=False, enabled=True)
    tracker.log(1, {"loss": 0.5})
    tracker.close()
    assert list((tmp_path / "tensorboard").glob("events*"))
