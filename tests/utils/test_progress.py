"""Progress on a terminal and in a file."""

import io
import re

import pytest

from utils import progress
from utils.progress import of_processes, tqdm


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    """Time that passes only in `advance`."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(tqdm, "_time", lambda bar: self.now, raising=False)


def work(file: io.StringIO, clock: Clock, steps: int, seconds: float, **options) -> None:
    with tqdm(total=steps, desc="toy", unit="step", file=file, **options) as bar:
        bar._time = lambda: clock.now
        bar.start_t = clock.now
        for step in range(steps):
            clock.now += seconds
            bar.update()
            bar.set_postfix(loss=f"{step:.4f}")


def test_a_file_has_no_bars(monkeypatch):
    file = io.StringIO()
    work(file, Clock(monkeypatch), steps=100, seconds=1.0)
    text = file.getvalue()
    assert not re.search(r"[\r\x1b█]|#{3}", text)
    lines = text.splitlines()
    assert lines[0] == "toy: 30 of 100 steps (30%) in 00:30, 01:10 left, loss=29.0000"
    assert lines[-1] == "toy: 100 of 100 steps (100%) in 01:40, loss=99.0000"
    assert len(lines) == 4  # after 30, 60 and 90 seconds, and at the end


def test_lines_of_long_work_grow_rarer(monkeypatch):
    """Five days."""
    file = io.StringIO()
    work(file, Clock(monkeypatch), steps=5 * 24 * 60, seconds=60.0)
    assert 20 < len(file.getvalue().splitlines()) < 100


def test_short_work_leaves_a_line_or_none(monkeypatch):
    file = io.StringIO()
    work(file, Clock(monkeypatch), steps=3, seconds=1.0)
    assert file.getvalue() == "toy: 3 of 3 steps (100%) in 00:03, loss=2.0000\n"
    file = io.StringIO()
    work(file, Clock(monkeypatch), steps=3, seconds=1.0, leave=False)
    assert file.getvalue() == ""


def test_messages_between_lines(monkeypatch):
    file = io.StringIO()
    with tqdm(total=2, file=file) as bar:
        bar.update()
        tqdm.write("a message", file=file)
    assert file.getvalue().splitlines() == ["a message", "1 of 2 (50%) in 00:00"]


def test_a_terminal_has_a_bar_with_the_time_left():
    terminal = Terminal()
    with tqdm(total=4, desc="toy", unit="step", file=terminal, mininterval=0, ncols=80) as bar:
        for _ in range(4):
            bar.update()
            bar.set_postfix(loss="0.1234")
    frames = terminal.getvalue().split("\r")
    assert len(frames) > 4
    assert all(len(frame.rstrip("\n")) <= 80 for frame in frames)
    assert re.search(r"2/4 \[\d\d:\d\d<\d\d:\d\d, .*step/s, loss=0\.1234\]", terminal.getvalue())


@pytest.mark.parametrize(("count", "title"), [(1, "encoding"), (4, "encoding, process 1 of 4")])
def test_titles(count, title):
    assert of_processes("encoding", count) == title
