"""Train and evaluate every variant of an ablation with every seed. Run the same command again to resume.

python -m experiments.ablation.run config=configs/fashion_mnist/ablation.yaml
"""

import json
from pathlib import Path

from dataset.images import list_images
from evaluation.pictures import all_images, class_names, class_rows, reconstruction_rows
from experiments.ablation.config import AblationConfig
from experiments.ablation.plan import Run, plan
from experiments.ablation.results import collect, differences, measures, plot_measures, table, tokenizer_and_generator
from experiments.job_runner import Job, JobRunner
from utils.atomic import write_text
from utils.config import load_config
from utils.errors import entry_point
from utils.folder_lock import exclusive_lock
from utils.images import labelled_columns, labelled_rows, save_png

SAMPLES_PER_CLASS = 4
NUM_RECONSTRUCTIONS = 16
HEADER = 24  # pixels above the samples for the variants' titles


class Results:
    """Writes runs.jsonl: a line for each run that is done, after those of other variants and seeds."""

    def __init__(self, config: AblationConfig, runs: list[Run]):
        self.config, self.path, self.jobs = config, Path(config.output_dir, "runs.jsonl"), set()
        self.pending = {(run.variant, run.seed): run for run in runs}
        rows = map(json.loads, self.path.read_text().splitlines()) if self.path.is_file() else ()
        self.rows = {key: row for row in rows if (key := (row["variant"], row["seed"])) not in self.pending}

    def add_job(self, job: Job) -> None:
        """Call for each finished job."""
        self.jobs.add(job)
        for key in [key for key, run in self.pending.items() if self.jobs.issuperset(run.jobs)]:
            row = self.rows[key] = collect(self.pending.pop(key), self.config)
            write_text(self.path, "".join(json.dumps(row) + "\n" for row in self.rows.values()))
            numbers = (f"{measure.title} {measure.summary([row])}" for measure in tokenizer_and_generator(self.config))
            print(f"  {row['variant']}, seed {row['seed']}: {', '.join(numbers)}", flush=True)


def write_pictures(config: AblationConfig, runs: list[Run]) -> None:
    """Write reconstructions.png and a SAMPLING.png for each sampling."""
    training, held_out = (list_images(config.data_path, split) for split in ("train", "val"))
    held_out, output = held_out.numbered_like(training), Path(config.output_dir)
    tokenizers, names = {run.title: run.tokenizer for run in runs}, class_names(held_out)
    reconstructions = reconstruction_rows(held_out, runs[0].image_size, tokenizers, NUM_RECONSTRUCTIONS)
    save_png(reconstructions, output / "reconstructions.png")
    for sampling in config.samplings:
        samples = [all_images(run.folder / f"{sampling}.npz") for run in runs]
        blocks = [class_rows(images, labels, len(names), SAMPLES_PER_CLASS) for images, labels in samples]
        sheet = labelled_columns(blocks, list(tokenizers), margin=HEADER)
        save_png(labelled_rows(sheet, names, top=HEADER), output / f"{sampling}.png")


@entry_point
def main() -> None:
    config = load_config(AblationConfig, __doc__)
    output = Path(config.output_dir)
    with exclusive_lock(output):
        runs, jobs = plan(config)
        results = Results(config, runs)
        JobRunner(jobs, output, parallel=config.jobs, log_to_files=True, on_done=results.add_job).run()
        groups: dict[str, list[dict]] = {}
        for run in runs:
            groups.setdefault(run.title, []).append(results.rows[run.variant, run.seed])
        text = table(groups, measures(config))
        if (reference := config.reference) and (title := config.variants[reference].title) in groups:
            text += f"\n\n{differences(groups, measures(config), title)}"
        write_text(output / "table.md", f"{text}\n")
        plot_measures(groups, measures(config)[1:], output / "measures.png")
        write_pictures(config, [run for run in runs if run.seed == config.seeds[0]])
        print(f"\n{text}")


if __name__ == "__main__":
    main()
