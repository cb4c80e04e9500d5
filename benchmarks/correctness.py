"""The tests that need a GPU, with their outcomes as rows.

python -m benchmarks.correctness [--json FILE] [pytest arguments]
"""

import argparse
import os
import sys

import torch

from benchmarks.machine import ROOT
from benchmarks.report import Report, add_json_option

TESTS = ("tests/test_gpu.py", "tests/test_gpu_training.py", "tests/test_two_gpus.py")


class Outcomes:
    """A plugin of pytest that reports each test when it is over."""

    def __init__(self, report: Report):
        self.report = report

    def pytest_runtest_logreport(self, report) -> None:
        """A test has three phases; its outcome is that of its call, or of another phase that did not pass."""
        if report.when != "call" and report.passed:
            return
        name, reason = report.nodeid.rpartition("::")[2], ""
        if report.skipped:
            reason = report.longrepr[2].removeprefix("Skipped: ")
        elif report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            reason = (crash.message if crash else str(report.longrepr)).strip().partition("\n")[0]
        text = f"{report.outcome:>8}: {name}, {report.duration:.1f} s {reason}"
        self.report.add(text, test=name, outcome=report.outcome, seconds=report.duration, reason=reason)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_json_option(parser)
    args, pytest_arguments = parser.parse_known_args()
    # Before tests/conftest.py, which hides all GPUs from tests unless they are named.
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(torch.cuda.device_count()))))
    os.chdir(ROOT)
    import pytest

    arguments = [*TESTS, "-p", "no:cacheprovider", "--tb=short", *pytest_arguments]
    sys.exit(pytest.main(arguments, plugins=[Outcomes(Report(args))]))


if __name__ == "__main__":
    main()
