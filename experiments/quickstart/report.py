"""Pictures, curves, metrics.json and a short table of the quickstart.

python -m experiments.quickstart.report --data_path data/fashion_mnist --output output/quickstart
"""

import argparse
from pathlib import Path

import numpy as np

from dataset.images import list_images
from evaluation.extractors import ClassifierExtractor
from evaluation.pictures import all_images, class_names, class_rows, reconstruction_rows
from experiments.job_runner import job_seconds
from training.logging import last_logged
from training.plots import plot_runs
from utils.atomic import read_json, write_json
from utils.errors import entry_point
from utils.images import labelled_columns, labelled_rows, save_png

NUM_RECONSTRUCTIONS = 20
SAMPLES_PER_CLASS = 10
PER_CLASS_BESIDE = 6  # samples, and as many real images
HEADER = 24  # pixels above them for the titles
PANELS = (
    ("tokenizer_stage1", ("loss", "reconstruction")),
    ("tokenizer_stage1", ("val_psnr",)),
    ("tokenizer_stage1", ("val_codebook_usage",)),
    ("tokenizer_stage2", ("loss",)),
    ("tokenizer_stage2", ("val_psnr",)),
    ("ar", ("loss", "val_loss")),
    ("ar", ("accuracy", "val_accuracy")),
)
TABLE = """
validation PSNR, stage 1            {val_psnr_stage1:.2f} dB
validation PSNR, stage 2            {val_psnr_stage2:.2f} dB
codebook used on validation images  {val_codebook_usage:.1%}
AR validation loss                  {ar_val_loss_nats_per_code:.3f} nats per code
AR top-1 accuracy                   {ar_val_accuracy:.1%} of the codes of validation images
samples recognised as their class   {class_agreement:.1%}
    real validation images          {classifier_val_accuracy:.1%}
distance within a class             {within_class_distance_samples:.3f}
    real validation images          {within_class_distance_validation:.3f}
FID in the classifier's features    {fid:.3f}
precision, recall                   {precision:.3f}, {recall:.3f}

{output}/reconstructions.png  originals, stage 1, stage 2
{output}/samples.png          samples, a row per class
{output}/samples_beside_real.png  samples and validation images
{output}/curves.png           losses and accuracy
{output}/ar/accuracy_by_position.png  top-1 accuracy for each place in the image
{output}/samples.npz          {num_samples} samples in ADM's format
{output}/metrics.json         all numbers"""


def within_class_distance(images: np.ndarray, labels: np.ndarray) -> float:
    """Root mean squared distance between two images of a class, averaged over the classes.

    images: (n, H, W, 3) uint8, distances are of values in [0, 1]; labels: (n,). 0 if all images of a class are equal.
    """
    pixels = images.reshape(len(images), -1) / 255
    # The mean of |a - b|^2 over independent pairs is twice the variance.
    return float(np.mean([np.sqrt(2 * pixels[labels == c].var(0, ddof=1).mean()) for c in np.unique(labels)]))


@entry_point
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_path", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    output: Path = args.output

    held_out = list_images(args.data_path, "val").numbered_like(list_images(args.data_path, "train"))
    samples, labels = all_images(output / "samples.npz")
    tokenizers = {f"stage {n}": output / f"tokenizer_stage{n}" for n in (1, 2)}
    reconstructions = reconstruction_rows(held_out, samples.shape[1], tokenizers, NUM_RECONSTRUCTIONS)
    save_png(reconstructions, output / "reconstructions.png")
    names = class_names(held_out)
    save_png(labelled_rows(class_rows(samples, labels, len(names), SAMPLES_PER_CLASS), names), output / "samples.png")
    real = all_images(output / "reference.npz")
    pairs = {"samples": (samples, labels), "real images": real}
    blocks = [class_rows(*pair, len(names), PER_CLASS_BESIDE) for pair in pairs.values()]
    beside = labelled_rows(labelled_columns(blocks, list(pairs), margin=HEADER), names, top=HEADER)
    save_png(beside, output / "samples_beside_real.png")
    plot_runs({run: output / run for run, _ in PANELS}, PANELS, output / "curves.png")

    evaluation = read_json(output / "evaluation.json")
    metrics = {
        "val_psnr_stage1": last_logged(output / "tokenizer_stage1", "val_psnr"),
        "val_psnr_stage2": last_logged(output / "tokenizer_stage2", "val_psnr"),
        "val_codebook_usage": last_logged(output / "tokenizer_stage2", "val_codebook_usage"),
        "ar_val_loss_nats_per_code": last_logged(output / "ar", "val_loss"),
        "ar_val_accuracy": last_logged(output / "ar", "val_accuracy"),
        "class_agreement": evaluation.pop("agreement"),
        "classifier_val_accuracy": ClassifierExtractor(output / "classifier.safetensors").info["val_accuracy"],
        "within_class_distance_samples": within_class_distance(samples, labels),
        "within_class_distance_validation": within_class_distance(*real),
        **evaluation,
        "seconds": job_seconds(output),
    }
    write_json(output / "metrics.json", metrics)
    print(TABLE.format(output=output, num_samples=len(samples), **metrics))


if __name__ == "__main__":
    main()
