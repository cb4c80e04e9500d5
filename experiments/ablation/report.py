"""What an ablation shows at its end: table, plot, pictures."""

from dataset.image_folder import list_images
from evaluation.pictures import all_images, class_names, class_rows, reconstruction_rows
from experiments.ablation.plan import Plan, Run
from experiments.ablation.plots import plot_measures
from experiments.ablation.results import measures, table
from utils.atomic import write_atomically
from utils.images import labelled_columns, labelled_rows, save_png

SAMPLES_PER_CLASS = 4
NUM_RECONSTRUCTIONS = 16
HEADER = 24  # pixels of the variants' names above their samples


def write_report(plan: Plan, rows: list[dict]) -> str:
    """Write table.md, measures.png, reconstructions.png and a picture of each kind of samples; the table."""
    columns = [c for c in measures(plan.config) if all(c.key in row for row in rows)]
    text = table(rows, columns)
    write_atomically(plan.output / "table.md", lambda f: f.write(f"{text}\n".encode()))
    plot_measures(rows, [c for c in columns if c.key != "num_codes"], plan.output / "measures.png")
    seed = plan.config.seeds[0]
    shown = [run for run in plan.runs if run.seed == seed]
    held_out = list_images(plan.data, "val")
    tokenizers = {run.title: run.tokenizer for run in shown}
    save_png(
        reconstruction_rows(held_out, plan.image_size, tokenizers, NUM_RECONSTRUCTIONS),
        plan.output / "reconstructions.png",
    )
    names = class_names(held_out)
    for sampling in plan.config.samplings:
        blocks = [_samples(run, sampling, len(names)) for run in shown]
        sheet = labelled_columns(blocks, [run.title for run in shown], margin=HEADER)
        save_png(labelled_rows(sheet, names, top=HEADER), plan.output / f"{sampling}.png")
    return text


def _samples(run: Run, sampling: str, num_classes: int):
    images, labels = all_images(run.folder / f"{sampling}.npz")
    return class_rows(images, labels, num_classes, SAMPLES_PER_CLASS)
