"""What the quickstart shows at its end: grids, curves, metrics.json, a short table.

python -m quickstart.report --data_path data/fashion_mnist --output output/quickstart
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dataset.image_folder import list_images, to_float
from dataset.image_loader import CenterCrops
from dataset.sampler import spread
from evaluation.classifier import ClassifierExtractor
from evaluation.features import extract
from evaluation.npz import NpzImages, read_small
from modeling.build import load_tokenizer
from utils.atomic import write_atomically
from utils.config import read_tokenizer_config
from utils.errors import entry_point
from utils.images import grid, labelled_rows, preview_scale, save_png
from utils.plots import plot_runs
from utils.tracking import read_log

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


def last_logged(folder: Path, name: str) -> float:
    return [row[name] for row in read_log(folder) if name in row][-1]


def reconstruct(output: Path, stage: str, images: Tensor) -> Tensor:
    folder = output / stage
    tokenizer = load_tokenizer(read_tokenizer_config(folder / "config.yaml"), folder / "model.safetensors")
    return tokenizer.decode(tokenizer.encode(images))


def within_class_distance(images: np.ndarray, labels: np.ndarray) -> float:
    """Mean over classes of the root mean squared distance between two images of the class.

    images: (n, ...) uint8. Near 0 when all images of a class are alike.
    """
    x = images.reshape(len(images), -1).astype(np.float64) / 255
    # E|a - b|^2 over independent pairs is twice the variance.
    return float(np.mean([np.sqrt(2 * x[labels == c].var(0, ddof=1).mean()) for c in np.unique(labels)]))


def all_images(path: Path) -> tuple[np.ndarray, np.ndarray]:
    images = np.concatenate(list(NpzImages(path).batches(1024)))
    return images, read_small(path, ("arr_1",))["arr_1"]


@entry_point
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_path", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    output: Path = args.output

    held_out = list_images(args.data_path, "val")
    crops = CenterCrops(held_out, 32)
    originals = to_float(torch.stack([crops[i] for i in spread(len(held_out), NUM_RECONSTRUCTIONS)]))
    rows = torch.cat([originals, *(reconstruct(output, f"tokenizer_stage{s}", originals) for s in (1, 2))])
    picture = grid(rows, columns=len(originals), scale=preview_scale(originals.shape[-1]))
    save_png(labelled_rows(picture, ("original", "stage 1", "stage 2")), output / "reconstructions.png")

    samples, labels = all_images(output / "samples.npz")
    chosen = [np.flatnonzero(labels == c)[:SAMPLES_PER_CLASS] for c in range(len(held_out.classes))]
    shown = torch.from_numpy(samples[np.concatenate(chosen)]).permute(0, 3, 1, 2) / 255
    picture = grid(shown, columns=SAMPLES_PER_CLASS, scale=preview_scale(shown.shape[-1]))
    names = [name.partition("-")[2] or name for name in held_out.classes]
    save_png(labelled_rows(picture, names), output / "samples.png")

    plot_runs({run: output / run for run, _ in PANELS}, PANELS, output / "curves.png")

    judge = ClassifierExtractor(output / "classifier.safetensors")
    logits = extract(judge, NpzImages(output / "samples.npz"), 256, "judging samples").logits
    agreement = float((logits.argmax(1).numpy() == labels).mean())
    reference, reference_labels = all_images(output / "reference.npz")
    evaluation = json.loads((output / "evaluation.json").read_text())
    seconds = {
        record["name"]: record["seconds"]
        for record in (json.loads(p.read_text()) for p in sorted((output / "steps").glob("*.json")))
    }
    metrics = {
        "val_psnr_stage1": last_logged(output / "tokenizer_stage1", "val_psnr"),
        "val_psnr_stage2": last_logged(output / "tokenizer_stage2", "val_psnr"),
        "val_codebook_usage": last_logged(output / "tokenizer_stage2", "val_codebook_usage"),
        "ar_val_loss_nats_per_code": last_logged(output / "ar", "val_loss"),
        "class_agreement": agreement,
        "classifier_val_accuracy": judge.info["val_accuracy"],
        "within_class_distance_samples": within_class_distance(samples, labels),
        "within_class_distance_validation": within_class_distance(reference, reference_labels),
        **evaluation,
        "seconds": seconds,
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
