"""The lock of an output folder."""

import threading

import pytest

from tests.support.launch import held
from utils.folder_lock import exclusive_lock


@pytest.mark.slow
def test_a_lock_released_while_waiting_is_taken(tmp_path):
    with held(tmp_path) as process:
        threading.Timer(1, process.kill).start()
        with exclusive_lock(tmp_path, timeout=30):
            assert process.wait() != 0
