"""Evaluate a tokenizer on an image folder: PSNR, SSIM, codebook usage, LPIPS and rFID.

torchrun --nproc_per_node=8 -m evaluation.evaluate_tokenizer --data_path data/imagenet
"""

import argparse
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from accelerate import PartialState
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Subset

from dataset.crops import RESIZES, resize_center_crop
from dataset.data_order import evenly_spaced
from dataset.image_dataset import CenterCrops, stack_decoded
from dataset.images import ImageList, list_images_together, to_float
from evaluation.extractors import load_extractor
from evaluation.features import Extractor
from evaluation.fid import Statistics
from evaluation.reconstruction import psnr, ssim
from evaluation.reconstruction_metrics import CodeFrequencies, ImageMeans, ReconstructedBatch, ReconstructionFID
from modeling.build import load_tokenizer
from modeling.configs import read_tokenizer_config
from modeling.frozen.lpips import LPIPS_NETWORKS, load_lpips
from modeling.interfaces import Tokenizer
from utils.arguments import HelpFormatter, at_least, file_path
from utils.atomic import write_json
from utils.errors import UserError, entry_point
from utils.images import grid, preview_scale, save_png
from utils.output_file import PNG, output_file
from utils.process import init_process
from utils.progress import tqdm
from utils.workers import Loader

NUM_PREVIEWS = 16
NUMBERS = b'{\n  "images"'  # how a file of --json begins
METRICS = ("psnr", "ssim", "lpips", "rfid")


class TokenizerEvaluation:
    """Metrics of tokenizers on a fixed set of centre crops (same resize as the training crops).

    Every process evaluates its share of the images; the metrics are over all of them. rFID computes the
    statistics of the originals once and keeps them for the next call.
    """

    def __init__(
        self,
        images: ImageList,
        image_size: int,
        *,
        batch_size: int,
        num_workers: int,
        max_images: int | None = None,
        resize: str = "bilinear",
        lpips: nn.Module | None = None,
        inception: Extractor | None = None,
        autocast: Callable[[], AbstractContextManager] = nullcontext,
    ):
        self.state = PartialState()
        self.crops = CenterCrops(images, image_size, partial(resize_center_crop, resize=resize), skip_bad=True)
        chosen = evenly_spaced(len(images), max_images or len(images))
        self.mine = chosen[self.state.process_index :: self.state.num_processes].tolist()
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.lpips = lpips
        self.inception = inception
        self.autocast = autocast
        self._originals: Statistics | None = None

    def _batches(self) -> Iterator[Tensor]:
        """This process's crops, (B, 3, S, S) uint8 on its device; undecodable files are left out."""
        loader = Loader(
            Subset(self.crops, self.mine),
            self.batch_size,
            num_workers=self.num_workers,
            collate_fn=stack_decoded,
        )
        hidden = not self.state.is_main_process
        for batch in tqdm(loader, "validating", leave=False, disable=hidden, mininterval=1.0):
            if batch is not None:
                yield batch.to(self.state.device)

    def _reconstruct(self, tokenizer: Tokenizer, pixels: Tensor) -> ReconstructedBatch:
        images = to_float(pixels)
        with self.autocast():
            codes = tokenizer.encode(images)
            return ReconstructedBatch(pixels, images, codes, tokenizer.decode(codes))

    @torch.no_grad()
    def metrics(self, tokenizer: Tokenizer) -> dict[str, float]:
        """psnr (dB), ssim; lpips and rfid if their networks are given; codebook_usage (share) and
        codebook_perplexity if the tokenizer has codes.

        `images` is the number of decoded images; UserError if none can be decoded.
        """
        device = self.state.device
        functions = {"psnr": psnr, "ssim": ssim} | ({"lpips": self.lpips} if self.lpips else {})
        means, layout = ImageMeans(functions, device), tokenizer.layout
        frequencies = [] if layout is None else [CodeFrequencies(layout.codebook_size, device)]
        rfid = ReconstructionFID(self.inception, device, self._originals) if self.inception else None
        metrics = [means, *frequencies, *([rfid] if rfid else [])]
        for pixels in self._batches():
            batch = self._reconstruct(tokenizer, pixels)
            for metric in metrics:
                metric.add(batch)
        values = means.compute()
        if not values["images"]:
            raise UserError(f"none of the {len(self.crops)} images of {self.crops.images.root} can be decoded")
        for metric in metrics[1:]:
            values |= metric.compute()
        if rfid:
            self._originals = rfid.originals
        return values

    @torch.no_grad()
    def preview(self, tokenizer: Tokenizer) -> Image.Image:
        """Originals above their reconstructions. Call after `metrics`, which raises if no image can be decoded."""
        pixels = stack_decoded([self.crops[i] for i in evenly_spaced(len(self.crops), NUM_PREVIEWS)])
        if pixels is None:  # none of these can be decoded: take the first one that can
            pixels = next(crop for crop in self.crops if crop is not None)[None]
        batch = self._reconstruct(tokenizer, pixels.to(self.state.device))
        rows = torch.cat([batch.images, batch.reconstruction])
        return grid(rows, columns=len(pixels), scale=preview_scale(tokenizer.image_size))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], formatter_class=HelpFormatter)
    parser.add_argument("--data_path", type=file_path, required=True, help="data set: docs/data.md")
    parser.add_argument("--split", default="val", help="part of --data_path")
    parser.add_argument(
        "--tokenizer_config", type=file_path, default="configs/tokenizer_stage2.yaml", help="YAML with model.vq_model"
    )
    parser.add_argument(
        "--tokenizer_checkpoint", type=file_path, default="weights/AliTok.pth", help="tokenizer weights"
    )
    parser.add_argument("--batch_size", type=at_least(1), default=32)
    parser.add_argument("--num_workers", type=at_least(0), default=8, help="decoding processes per process")
    parser.add_argument("--max_images", type=at_least(1), help="at most this many, evenly spaced; default: all")
    parser.add_argument("--resize", choices=RESIZES, default="bilinear", help="as in the tokenizer's training")
    parser.add_argument("--metrics", default=",".join(METRICS), help="lpips and rfid need network weights")
    parser.add_argument(
        "--inception", type=file_path, help="Inception weights for rFID; default: as the evaluator finds them"
    )
    parser.add_argument(
        "--classifier", type=file_path, help="use this classifier (evaluation/train_classifier.py), not Inception"
    )
    parser.add_argument("--lpips_network", choices=LPIPS_NETWORKS, default="vgg16", help="network of LPIPS")
    parser.add_argument(
        "--lpips_checkpoint", type=file_path, help="its weights; default: torch's hub cache, or a download of VGG16"
    )
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--device", choices=("cuda", "cpu"), help="default: a GPU if there is one")
    parser.add_argument("--json", type=file_path, help="also write the numbers to this file")
    parser.add_argument("--grid", type=file_path, help="write originals and reconstructions to this PNG file")
    return parser.parse_args()


@entry_point
def main() -> None:
    args = parse_arguments()
    chosen = args.metrics.split(",")
    if not set(chosen) <= {*METRICS}:
        raise UserError(f"--metrics {args.metrics}: choose from {','.join(METRICS)}")
    state = init_process(args.device)
    main_process = state.is_main_process
    with (
        output_file(args.json if main_process else None, "--json", NUMBERS),
        output_file(args.grid if main_process else None, "--grid", PNG),
    ):
        evaluate(args, chosen, state)


def evaluate(args: argparse.Namespace, chosen: list[str], state: PartialState) -> None:
    images = list_images_together(args.data_path, args.split)
    tokenizer = load_tokenizer(read_tokenizer_config(args.tokenizer_config), args.tokenizer_checkpoint, state.device)
    lpips = inception = None
    if "lpips" in chosen:
        with state.local_main_process_first():  # one download per machine
            lpips = load_lpips(args.lpips_network, args.lpips_checkpoint, "--lpips_checkpoint").to(state.device)
    if "rfid" in chosen:
        inception = load_extractor(args.inception, args.classifier, state.device)
    evaluation = TokenizerEvaluation(
        images,
        tokenizer.image_size,
        batch_size=args.batch_size,
        num_workers=args.num_workers,
        max_images=args.max_images,
        resize=args.resize,
        lpips=lpips,
        inception=inception,
        autocast=lambda: torch.autocast(state.device.type, torch.bfloat16, enabled=args.precision == "bf16"),
    )
    metrics = evaluation.metrics(tokenizer)
    if state.is_main_process:
        for name, value in metrics.items():
            print(f"{name}: {value}")
        if args.json:
            write_json(args.json, metrics)
        if args.grid:
            save_png(evaluation.preview(tokenizer), args.grid)


if __name__ == "__main__":
    main()
