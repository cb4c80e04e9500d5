"""Data workers: a fault ends the program within seconds, with one line."""

import os
import signal

import pytest
import torch
from torch.utils.data import Dataset

from tests.support.launch import small_files
from utils.errors import UserError, entry_point
from utils.workers import Loader


class Batches(Dataset):
    """Batches of 400 kB; `number` < 0 kills the worker, above 9 it raises UserError."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, number: int) -> tuple[torch.Tensor, list]:
        if number < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        if number > 9:
            raise UserError("file 10 is damaged")
        return torch.full((100_000,), float(number)), [(number, "text")]


def load(*numbers: int) -> list:
    return list(Loader(Batches(), sampler=numbers, batch_size=None, num_workers=1))


@pytest.fixture
def ends(capfd):
    """ends(*numbers) -> the error line of a program that loads these batches; exit code 2 checked."""

    def call(*numbers: int) -> str:
        with pytest.raises(SystemExit) as caught:
            entry_point(load)(*numbers)
        assert caught.value.code == 2
        return capfd.readouterr().err.strip().splitlines()[-1]

    return call


def test_batches_come_as_they_are():
    (first, notes), (second, _) = load(3, 4)
    assert first.is_shared()
    assert torch.equal(first, torch.full((100_000,), 3.0))
    assert torch.equal(second, torch.full((100_000,), 4.0))
    assert list(notes[0]) == [3, "text"]


def test_a_killed_worker(ends):
    line = ends(1, -1)
    assert "error: a data worker failed (DataLoader worker" in line
    assert "perhaps memory ran out" in line
    assert "num_workers" in line


def test_too_little_shared_memory(ends):
    with small_files(100_000):  # holds for files in /dev/shm, too
        line = ends(1)
    assert "shared memory (/dev/shm) is full" in line
    assert "num_workers" in line


@pytest.mark.slow  # torch waits for the worker
def test_an_error_of_the_data_is_that_of_the_program(ends):
    assert ends(1, 10) == "error: file 10 is damaged"


def test_a_fault_of_the_program_keeps_its_trace():
    with pytest.raises(TypeError):
        entry_point(load)("a")
