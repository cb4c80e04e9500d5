"""Train and evaluate every variant of an ablation with every seed; stop and start again at will.

python -m experiments.ablation.run config=configs/fashion_mnist/ablation.yaml
"""

import json
from pathlib import Path

from experiments.ablation.config import AblationConfig
from experiments.ablation.plan import Plan
from experiments.ablation.report import write_report
from experiments.ablation.results import collect, one_line
from experiments.job_runner import Step, run_steps
from utils.atomic import write_atomically
from utils.config import load_config
from utils.errors import entry_point
from utils.folder_lock import exclusive_lock


class Results:
    """Keeps OUTPUT/runs.jsonl: one line for each run whose steps are all done, this plan's and earlier ones'."""

    def __init__(self, plan: Plan):
        self.plan = plan
        self.path = plan.output / "runs.jsonl"
        self.done: set[Step] = set()
        self.found: set[tuple[str, int]] = set()
        planned = {(run.variant, run.seed) for run in plan.runs}
        self._write({key: row for key, row in self._read().items() if key not in planned})

    def add(self, step: Step) -> None:
        self.done.add(step)
        for run in self.plan.runs:
            if (run.variant, run.seed) not in self.found and self.done.issuperset(run.steps):
                self.found.add((run.variant, run.seed))
                row = collect(run, self.plan.config)
                self._write(self._read() | {(run.variant, run.seed): row})
                print(f"  {one_line(row, self.plan.config)}", flush=True)

    def _read(self) -> dict[tuple[str, int], dict]:
        rows = map(json.loads, self.path.read_text().splitlines()) if self.path.is_file() else ()
        return {(row["variant"], row["seed"]): row for row in rows}

    def _write(self, rows: dict[tuple[str, int], dict]) -> None:
        lines = "".join(json.dumps(row) + "\n" for row in rows.values())
        write_atomically(self.path, lambda f: f.write(lines.encode()))

    def rows(self) -> list[dict]:
        """Of this plan, variant by variant as the configuration lists them."""
        rows, order = self._read(), list(self.plan.config.variants)
        return [rows[key] for key in sorted(self.found, key=lambda key: (order.index(key[0]), key[1]))]


@entry_point
def main() -> None:
    config = load_config(AblationConfig, __doc__)
    with exclusive_lock(Path(config.output_dir)):
        plan = Plan(config)
        results = Results(plan)
        run_steps(plan.steps, plan.output, jobs=config.jobs, capture=True, finished=results.add)
        print("\n" + write_report(plan, results.rows()))


if __name__ == "__main__":
    main()
