"""Pretokenization: the rate of each stage, of all together, and of a plain loop, in one run.

python -m benchmarks.pretokenization --images 32 --batch_size 4 --num_workers 1

Run it as one process: under torchrun every process would measure the same. The plain loop also decodes
in workers, but it stacks ten float crops of each image there, encodes them in float32 and writes one npz
per image. Weights are random, which does not change the time.
"""

import argparse
import copy
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import functional as TF

from benchmarks.machine import announce, timed
from benchmarks.report import Report, add_json_option
from dataset.crops import center_crop, source_size
from dataset.images import ImageList, list_images
from dataset.token_cache.encode import EncodeSettings, SourceCrops, encode_views, pretokenize, split_into_batches
from dataset.token_cache.metadata import CacheMetadata
from dataset.token_cache.writer import CacheWriter
from modeling.build import build_tokenizer, to_inference
from modeling.configs import read_tokenizer_config
from modeling.interfaces import Tokenizer
from modeling.layers.precision import PRECISIONS
from utils.process import init_process

IMAGE_SIZE = (500, 375)  # the most frequent size in ImageNet
JPEG_QUALITY = 90
NUM_VIEWS = 10
TRANSFERS = 20


def write_images(root: Path, count: int) -> ImageList:
    """JPEG files with large shapes and fine detail, about as large as ImageNet's (110 kB on average)."""
    rng = np.random.default_rng(0)
    folder = root / "train" / "class"
    folder.mkdir(parents=True)
    for i in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize(IMAGE_SIZE, Image.BICUBIC)
        detail = rng.normal(0, 12, (*IMAGE_SIZE[::-1], 3))
        pixels = np.clip(np.asarray(coarse) + detail, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:06d}.JPEG", quality=JPEG_QUALITY)
    return list_images(root, "train")


class StackedTenCrops(Dataset):
    """Ten float crops of each image, stacked by the worker."""

    def __init__(self, images: ImageList, size: int):
        self.images = images
        self.size = size

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, str]:
        crop = center_crop(self.images.read(index), source_size(self.size, True))
        views = torch.stack([TF.to_tensor(view) for view in TF.ten_crop(crop, [self.size] * 2)])
        return views, self.images.paths[index]


@torch.no_grad()
def plain_loop(tokenizer: Tokenizer, images: ImageList, folder: Path, device: torch.device, args) -> None:
    loader = DataLoader(StackedTenCrops(images, tokenizer.image_size), args.batch_size, num_workers=args.num_workers)
    for views, paths in loader:
        codes = tokenizer.encode(views.flatten(0, 1).to(device)).view(len(paths), NUM_VIEWS, -1).cpu().numpy()
        for path, row in zip(paths, codes, strict=True):
            target = folder / f"{path}.npz"
            target.parent.mkdir(parents=True, exist_ok=True)
            np.savez(target, codes=row)


def measure(args: argparse.Namespace, device: torch.device, root: Path) -> None:
    torch.manual_seed(0)
    tokenizer = to_inference(build_tokenizer(read_tokenizer_config(args.tokenizer_config)), device)
    plain_tokenizer = copy.deepcopy(tokenizer)  # `pretokenize` may compile the other one in place
    images = write_images(root / "images", args.images)
    metadata = CacheMetadata(
        num_files=len(images),
        files_sha256="",
        num_views=NUM_VIEWS,
        num_codes=tokenizer.layout.num_codes,
        codebook_size=tokenizer.layout.codebook_size,
        image_size=tokenizer.image_size,
        crop="ten_crop",
        split="train",
        precision=args.precision,
        tokenizer_sha256="",
        classes=images.classes,
    )
    side = source_size(tokenizer.image_size, True)
    crops = torch.randint(0, 256, (args.batch_size, 3, side, side), dtype=torch.uint8)
    resident = crops.to(device)
    codes = np.random.default_rng(0).integers(
        0, tokenizer.layout.codebook_size, (args.images, NUM_VIEWS, tokenizer.layout.num_codes)
    )
    writer = CacheWriter(root / "writer", metadata, images)
    decode_rounds = -(-args.min_decoded // args.images)
    encode_rounds = max(1, args.images // args.batch_size)

    def decode() -> None:
        sampler = split_into_batches(writer, [0] * decode_rounds, args.batch_size)
        for _ in DataLoader(SourceCrops(images, side), None, sampler=sampler, num_workers=args.num_workers):
            pass

    def transfer() -> None:
        for _ in range(TRANSFERS):
            pinned.to(device, non_blocking=True)

    def encode() -> None:
        for _ in range(encode_rounds):
            encode_views(tokenizer, resident, metadata)

    def end_to_end(images: ImageList, folder: str) -> None:
        settings = EncodeSettings(args.batch_size, args.num_workers)
        facts = replace(metadata, num_files=len(images))
        pretokenize(tokenizer, images, root / folder, facts, settings, init_process(device.type))

    def rate(count: int, work, *arguments) -> float:
        return count / timed(lambda: work(*arguments), device)[0]

    def first(count: int | None) -> ImageList:
        return ImageList(images.root, images.classes, images.paths[:count], images.labels[:count])

    # Warm-up.
    if device.type == "cuda":
        end_to_end(first(args.batch_size), "first_batch")  # compilation, which a whole data set hardly notices
    encode_views(tokenizer, resident, metadata)
    with torch.no_grad():
        plain_tokenizer.encode(torch.rand(NUM_VIEWS, 3, tokenizer.image_size, tokenizer.image_size, device=device))
    rates = {"decode": rate(decode_rounds * args.images, decode)}
    if device.type == "cuda":
        pinned = crops.pin_memory()
        rates["transfer"] = rate(TRANSFERS * args.batch_size, transfer)
    rates["encode"] = rate(encode_rounds * args.batch_size, encode)
    rates["write"] = rate(args.images, writer.write, 0, range(args.images), codes)
    whole = rate(args.images, end_to_end, images, "cache")
    plain_images = first(args.plain_images)
    plain = rate(len(plain_images), plain_loop, plain_tokenizer, plain_images, root / "plain", device, args)
    for stage, value in rates.items():
        print(f"{stage:>22}: {value:10.2f} images/s")
    slowest = min(rates, key=rates.get)
    print(f"{'end to end':>22}: {whole:10.2f} images/s, {whole / rates[slowest]:.0%} of {slowest} by itself")
    print(f"{'plain float32 loop':>22}: {plain:10.2f} images/s")
    Report(args).add(
        f"{'ratio':>22}: {whole / plain:10.2f}",
        **{f"{stage}_images_per_s": value for stage, value in rates.items()},
        images_per_s=whole,
        slowest=slowest,
        plain_images_per_s=plain,
        ratio=whole / plain,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokenizer_config", default="configs/tokenizer_stage2.yaml")
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--plain_images", type=int, help="images of the plain loop; default: --images")
    parser.add_argument("--batch_size", type=int, default=4, help="images, of ten views each")
    parser.add_argument("--num_workers", type=int, default=1)
    parser.add_argument("--precision", choices=PRECISIONS, default="bf16")
    parser.add_argument(
        "--min_decoded", type=int, default=512, help="images to decode at least; hides the workers' start"
    )
    add_json_option(parser)
    args = parser.parse_args()
    device = announce(args)
    with tempfile.TemporaryDirectory() as scratch:
        measure(args, device, Path(scratch))


if __name__ == "__main__":
    main()
