"""All ranks agree on a signal in the one collective that a step has."""

import pytest

from tests.support.launch import run

# A generator and its guard on two ranks; rank 1 receives SIGTERM before the third step, rank 0 SIGINT.
TWO_RANKS = """
import os, signal
import torch, torch.distributed as dist
from accelerate import Accelerator
from training.guard import GuardSettings, StepGuard
from training.preemption import StopRequest

accelerator = Accelerator(cpu=True)
model = torch.nn.Linear(2, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
guard = StepGuard(accelerator, GuardSettings(), StopRequest(accelerator))
collectives = []
for name in ("all_reduce", "all_gather", "all_gather_into_tensor", "broadcast"):
    def counted(*arguments, real=getattr(dist, name), name=name, **options):
        collectives.append(name)
        return real(*arguments, **options)
    setattr(dist, name, counted)
    setattr(torch.distributed, name, counted)
requests = []
with guard.stop as stop:
    for step in range(4):
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM if accelerator.process_index else signal.SIGINT)
        if step == 3 and accelerator.process_index:
            os.kill(os.getpid(), signal.SIGTERM)
        loss = model(torch.ones(1, 2)).sum()
        loss.backward()
        guard.update(model, optimizer, loss, step=step)
        requests.append(stop.requested())
assert requests == [False, False, True, True], requests
assert stop.exit_code == 128 + signal.SIGTERM
assert len(collectives) == 4, collectives
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_ranks_agree_on_a_signal_without_a_collective_of_its_own(tmp_path):
    script = tmp_path / "two_ranks.py"
    script.write_text(TWO_RANKS)
    run(script, processes=2)
