"""Train and evaluate every variant of an ablation with every seed; stop and start again at will.

python -m ablation.run config=configs/fashion_mnist/ablation.yaml
"""

import json
from pathlib import Path

from ablation.plan import AblationConfig, Plan
from ablation.report import write_report
from ablation.results import collect, one_line
from utils.atomic import write_atomically
from utils.config import load_config
from utils.errors import entry_point
from utils.steps import Step, run_steps


class Results:
    """Keeps OUTPUT/runs.jsonl: one line for each run whose steps are all done."""

    def __init__(self, plan: Plan):
        self.plan = plan
        self.done: set[Step] = set()
        self.rows: dict[tuple[str, int], dict] = {}

    def add(self, step: Step) -> None:
        self.done.add(step)
        for run in self.plan.runs:
            if (run.variant, run.seed) not in self.rows and self.done.issuperset(run.steps):
                row = collect(run, self.plan.config)
                self.rows[run.variant, run.seed] = row
                print(f"  {one_line(row, self.plan.config)}", flush=True)
                self._write(self.plan.output / "runs.jsonl")

    def _write(self, path: Path) -> None:
        lines = "".join(json.dumps(row) + "\n" for row in self.ordered())
        write_atomically(path, lambda f: f.write(lines.encode()))

    def ordered(self) -> list[dict]:
        """Variant by variant, as the configuration lists them."""
        found = [(v, s) for v in self.plan.config.variants for s in self.plan.config.seeds if (v, s) in self.rows]
        return [self.rows[key] for key in found]


@entry_point
def main() -> None:
    config = load_config(AblationConfig, __doc__)
    plan = Plan(config)
    results = Results(plan)
    run_steps(plan.steps, plan.output, jobs=config.jobs, capture=True, finished=results.add)
    print("\n" + write_report(plan, results.ordered()))


if __name__ == "__main__":
    main()
