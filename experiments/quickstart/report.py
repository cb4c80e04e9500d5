"""What the quickstart shows at its end: grids, curves, metrics.json, a short table.

python -m experiments.quickstart.report --data_path data/fashion_mnist --output output/quickstart
"""

import argparse
import json
from pathlib import Path

import numpy as np

from dataset.image_folder import list_images
from evaluation.extractors import ClassifierExtractor
from evaluation.pictures import all_images, class_names, class_rows, reconstruction_rows
from experiments.job_runner import step_seconds
from training.logging import last_logged
from training.plots import plot_runs
from utils.atomic import write_atomically
from utils.errors import entry_point
from utils.images import labelled_rows, save_png

NUM_RECONSTRUCTIONS = 20
SAMPLES_PER_CLASS = 10
PANELS = (
    ("tokenizer_stage1", ("loss", "reconstruction")),
    ("tokenizer_stage1", ("val_psnr",)),
    ("tokenizer_stage1", ("val_codebook_usage",)),
    ("tokenizer_stage2", ("loss",)),
    ("tokenizer_stage2", ("val_psnr",)),
    ("ar", ("loss", "val_loss")),
)


def within_class_distance(images: np.ndarray, labels: np.ndarray) -> float:
    """Mean over classes of the root mean squared distance between two images of the class.

    images: (n, ...) uint8. Near 0 when all images of a class are alike.
    """
    x = images.reshape(len(images), -1).astype(np.float64) / 255
    # E|a - b|^2 over independent pairs is twice the variance.
    return float(np.mean([np.sqrt(2 * x[labels == c].var(0, ddof=1).mean()) for c in np.unique(labels)]))


@entry_point
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_path", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    output: Path = args.output

    held_out = list_images(args.data_path, "val")
    stages = {f"stage {s}": output / f"tokenizer_stage{s}" for s in (1, 2)}
    samples, labels = all_images(output / "samples.npz")
    rows = reconstruction_rows(held_out, samples.shape[1], stages, NUM_RECONSTRUCTIONS)
    save_png(rows, output / "reconstructions.png")
    picture = class_rows(samples, labels, len(held_out.classes), SAMPLES_PER_CLASS)
    save_png(labelled_rows(picture, class_names(held_out)), output / "samples.png")

    plot_runs({run: output / run for run, _ in PANELS}, PANELS, output / "curves.png")

    judge = ClassifierExtractor(output / "classifier.safetensors")
    reference, reference_labels = all_images(output / "reference.npz")
    evaluation = json.loads((output / "evaluation.json").read_text())
    metrics = {
        "val_psnr_stage1": last_logged(output / "tokenizer_stage1", "val_psnr"),
        "val_psnr_stage2": last_logged(output / "tokenizer_stage2", "val_psnr"),
        "val_codebook_usage": last_logged(output / "tokenizer_stage2", "val_codebook_usage"),
        "ar_val_loss_nats_per_code": last_logged(output / "ar", "val_loss"),
        "class_agreement": evaluation.pop("agreement"),
        "classifier_val_accuracy": judge.info["val_accuracy"],
        "within_class_distance_samples": within_class_distance(samples, labels),
        "within_class_distance_validation": within_class_distance(reference, reference_labels),
        **evaluation,
        "seconds": step_seconds(output),
    }
    write_atomically(output / "metrics.json", lambda f: f.write(json.dumps(metrics, indent=2).encode()))

    print_table(metrics, output, len(samples))


def print_table(metrics: dict, output: Path, num_samples: int) -> None:
    real = f"(real validation images: {100 * metrics['classifier_val_accuracy']:.1f} %)"
    real_distance = f"(real validation images: {metrics['within_class_distance_validation']:.3f})"
    rows = (
        ("validation PSNR, stage 1", f"{metrics['val_psnr_stage1']:.2f} dB", ""),
        ("validation PSNR, stage 2", f"{metrics['val_psnr_stage2']:.2f} dB", ""),
        ("codebook used on validation images", f"{100 * metrics['val_codebook_usage']:.1f} %", ""),
        ("AR validation loss", f"{metrics['ar_val_loss_nats_per_code']:.3f} nats per code", ""),
        ("samples recognised as their class", f"{100 * metrics['class_agreement']:.1f} %", real),
        ("distance within a class", f"{metrics['within_class_distance_samples']:.3f}", real_distance),
        ("FID in the classifier's features", f"{metrics['fid']:.3f}", ""),
        ("precision, recall", f"{metrics['precision']:.3f}, {metrics['recall']:.3f}", ""),
    )
    print()
    for name, value, note in rows:
        print(f"{name:36}{value:24}{note}".rstrip())
    print("\nlook at")
    for name, what in (
        ("reconstructions.png", "originals, stage 1, stage 2"),
        ("samples.png", "samples, a row per class"),
        ("curves.png", "losses"),
        ("samples.npz", f"{num_samples} samples in ADM's format"),
        ("metrics.json", "all numbers"),
    ):
        print(f"  {output / name!s:44}{what}")


if __name__ == "__main__":
    main()
