"""Write a reference .npz for the evaluator: images as `arr_0` and, with a network, their statistics.

python -m evaluation.make_reference --data_path data/fashion_mnist --split val --img_size 32 --output reference.npz
python -m evaluation.make_reference --npz images.npz --inception classify_image_graph_def.pb --output reference.npz
"""

import argparse
from collections.abc import Iterator
from contextlib import suppress

import numpy as np
import torch

from dataset.crops import center_crop
from dataset.image_dataset import CenterCrops
from dataset.images import NoSuchSplit, list_images
from evaluation.extractors import load_extractor
from evaluation.features import Extractor
from evaluation.fid import STORED_ARRAYS, RunningStatistics
from evaluation.reference import SPLIT
from utils.arguments import at_least, file_path
from utils.atomic import write_atomically
from utils.errors import UserError, entry_point
from utils.npz import IMAGES, NpzImages, read_arrays
from utils.output_file import ZIP, output_file
from utils.process import init_process
from utils.progress import tqdm
from utils.workers import Loader

BATCH_SIZE = 64
TRAINING_SPLIT = "train"


def folder_images(args: argparse.Namespace) -> tuple[Iterator[np.ndarray], int, np.ndarray]:
    """Batches (n, S, S, 3) uint8 of centre crops, number of images, classes (N,)."""
    images = list_images(args.data_path, args.split)
    if args.split != TRAINING_SPLIT:
        with suppress(NoSuchSplit):  # as generators number them
            images = images.numbered_like(list_images(args.data_path, TRAINING_SPLIT))
    images = images.evenly_spaced(args.max_images or len(images))
    loader = Loader(CenterCrops(images, args.img_size, center_crop), BATCH_SIZE, num_workers=args.num_workers)
    return (b.permute(0, 2, 3, 1).contiguous().numpy() for b in loader), len(images), images.labels


def npz_images(args: argparse.Namespace) -> tuple[Iterator[np.ndarray], int, np.ndarray | None]:
    """Batches, number and classes of the images in another .npz."""
    images = NpzImages(args.npz, args.array)
    return images.batches(BATCH_SIZE), len(images), read_arrays(args.npz, ("arr_1",)).get("arr_1")


def collect(
    batches: Iterator[np.ndarray], total: int, extractor: Extractor | None
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """All images, and `mu, sigma, mu_s, sigma_s` if an extractor is given."""
    images: list[np.ndarray] = []
    running: dict[str, RunningStatistics] = {}
    with tqdm(total=total, unit="image", desc="reference images", mininterval=1.0) as bar:
        for batch in batches:
            images.append(batch)
            if extractor is not None:
                features = extractor(torch.from_numpy(batch))
                for kind in STORED_ARRAYS:
                    values = getattr(features, kind)
                    running.setdefault(kind, RunningStatistics(values.shape[1])).add(values)
            bar.update(len(batch))
    arrays = {}
    for kind, sums in running.items():
        statistics = sums.statistics()
        arrays |= dict(zip(STORED_ARRAYS[kind], (statistics.mu.numpy(), statistics.sigma.numpy()), strict=True))
    return np.concatenate(images), arrays


@entry_point
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--data_path", type=file_path, help="folder with SPLIT/<class>/<image>, or archives: docs/data.md"
    )
    source.add_argument("--npz", type=file_path, help="images of another .npz, uint8 (N, H, W, 3) as arr_0")
    add("--array", default=IMAGES, help="name of the images in --npz (default: arr_0)")
    add("--split", default="val", help="part of --data_path (default: val)")
    add("--img_size", type=at_least(1), default=256, help="side of the centre crops in pixels (default: 256)")
    add("--max_images", type=at_least(1), help="at most this many of --data_path, evenly spaced; default: all")
    add("--output", type=file_path, required=True, help=".npz file to write")
    add("--inception", type=file_path, help="also store the statistics under these Inception weights (.pth or .pb)")
    add(
        "--classifier",
        type=file_path,
        help="also store the statistics under this classifier (evaluation/train_classifier.py)",
    )
    add("--num_workers", type=at_least(0), default=0, help="decoding processes (default: 0)")
    add("--device", choices=("cuda", "cpu"), help="default: a GPU if there is one")
    args = parser.parse_args()
    if args.inception and args.classifier:
        raise UserError("give --inception or --classifier: a file holds the statistics of one network only")
    with output_file(args.output, "--output", ZIP):
        write_reference(args)


def write_reference(args: argparse.Namespace) -> None:
    device, extractor = init_process(args.device).device, None
    batches, total, labels = folder_images(args) if args.data_path else npz_images(args)
    if args.inception or args.classifier:
        extractor = load_extractor(args.inception, args.classifier, device)
    images, statistics = collect(batches, total, extractor)
    arrays = {"arr_0": images, **({} if labels is None else {"arr_1": labels}), **statistics}
    if args.data_path:
        arrays[SPLIT] = np.array(args.split)
    write_atomically(args.output, lambda file: np.savez(file, **arrays))
    print(f"wrote {args.output}: {len(images)} images" + (f", statistics of {extractor.name}" if extractor else ""))


if __name__ == "__main__":
    main()
