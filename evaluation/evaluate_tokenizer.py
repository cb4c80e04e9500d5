"""Evaluate a tokenizer on an image folder: PSNR, SSIM, codebook usage, LPIPS and rFID.

torchrun --nproc_per_node=8 -m evaluation.evaluate_tokenizer --data_path data/imagenet
"""

import argparse
import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import reduce
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

from dataset.data_order import evenly_spaced
from dataset.image_dataset import CenterCrops, stack_decoded
from dataset.image_folder import ImageList, list_images, to_float
from evaluation.adm_metrics import RunningStatistics, Statistics, frechet_distance
from evaluation.extractors import load_extractor
from evaluation.features import Extractor
from evaluation.reconstruction import psnr, ssim
from modeling.build import load_tokenizer
from modeling.configs import read_tokenizer_config
from modeling.frozen.lpips import LPIPS, VGG16
from modeling.interfaces import Tokenizer
from modeling.layers.codebook_usage import CodebookUsage
from utils.arguments import at_least
from utils.atomic import write_atomically
from utils.errors import UserError, entry_point
from utils.images import grid, preview_scale, save_png, to_bytes
from utils.pretrained import get_weights
from utils.process import ignore_stop_signals, init_process

NUM_PREVIEWS = 16
METRICS = ("psnr", "ssim", "lpips", "rfid")


def _sum(values: Tensor) -> Tensor:
    return reduce(values, reduction="sum")


class TokenizerEvaluation:
    """Metrics of tokenizers on one set of centre crops, those that training's random crops vary.

    Every process takes its share of the images; the numbers are those of all of them. rFID compares
    reconstructions with the same crops, whose statistics are computed once.
    """

    def __init__(
        self,
        images: ImageList,
        image_size: int,
        *,
        batch_size: int,
        num_workers: int,
        max_images: int | None = None,
        lpips: LPIPS | None = None,
        inception: Extractor | None = None,
        autocast: Callable[[], AbstractContextManager] = nullcontext,
    ):
        self.state = PartialState()
        self.crops = CenterCrops(images, image_size, skip_bad=True)
        chosen = evenly_spaced(len(images), max_images or len(images))
        self.mine = chosen[self.state.process_index :: self.state.num_processes].tolist()
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.lpips = lpips
        self.inception = inception
        self.autocast = autocast
        self._originals: Statistics | None = None

    @torch.no_grad()
    def metrics(self, tokenizer: Tokenizer) -> dict[str, float]:
        """psnr (dB), ssim, codebook_usage (share), codebook_perplexity, and lpips and rfid if asked for.

        `images` is how many could be decoded and took part; UserError if none could.
        """
        device = self.state.device
        usage = CodebookUsage(tokenizer.layout.codebook_size, device)
        names = ("psnr", "ssim") if self.lpips is None else ("psnr", "ssim", "lpips")
        sums = torch.zeros(len(names), dtype=torch.float64, device=device)
        if self.inception is not None:
            originals, reconstructions = (RunningStatistics(self.inception.num_features, device) for _ in range(2))
        loader = DataLoader(
            Subset(self.crops, self.mine),
            self.batch_size,
            num_workers=self.num_workers,
            collate_fn=stack_decoded,
            worker_init_fn=ignore_stop_signals,
        )
        count = torch.zeros((), dtype=torch.float64, device=device)
        hidden = not self.state.is_main_process
        for batch in tqdm(loader, "validating", leave=False, disable=hidden, mininterval=1.0):
            if batch is None:
                continue
            count += len(batch)
            batch = batch.to(device)
            images = to_float(batch)
            with self.autocast():
                codes = tokenizer.encode(images)
                reconstruction = tokenizer.decode(codes)
            usage.add(codes)
            values = [psnr(images, reconstruction), ssim(images, reconstruction)]
            if self.lpips is not None:
                values.append(self.lpips(images, reconstruction))
            sums += torch.stack(values).double().sum(1)
            if self.inception is not None:
                if self._originals is None:
                    originals.add(self.inception(batch.movedim(1, -1)).pool)
                reconstructions.add(self.inception(to_bytes(reconstruction, rounded=True)).pool)
        images = int(_sum(count))
        if not images:
            raise UserError(f"none of the {len(self.crops)} images of {self.crops.images.root} can be decoded")
        metrics = {"images": images, **dict(zip(names, (_sum(sums) / images).tolist(), strict=True))}
        usage.counts = _sum(usage.counts)
        metrics |= {"codebook_usage": usage.usage(), "codebook_perplexity": usage.perplexity()}
        if self.inception is not None:
            self._originals = self._originals or originals.reduced(_sum).statistics()
            metrics["rfid"] = frechet_distance(self._originals, reconstructions.reduced(_sum).statistics())
        return metrics

    @torch.no_grad()
    def preview(self, tokenizer: Tokenizer) -> Image.Image:
        """Originals above their reconstructions; call `metrics` first, which knows that there are any."""
        shown = stack_decoded([self.crops[i] for i in evenly_spaced(len(self.crops), NUM_PREVIEWS)])
        if shown is None:  # these are all damaged
            shown = next(crop for crop in self.crops if crop is not None)[None]
        shown = to_float(shown.to(self.state.device))
        with self.autocast():
            drawn = tokenizer.decode(tokenizer.encode(shown))
        return grid(torch.cat([shown, drawn]), columns=len(shown), scale=preview_scale(tokenizer.image_size))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--data_path", required=True, help="folder with SPLIT/<class>/<image>")
    parser.add_argument("--split", default="val", help="sub-folder of --data_path")
    parser.add_argument("--tokenizer_config", default="configs/tokenizer_stage2.yaml", help="YAML with model.vq_model")
    parser.add_argument("--tokenizer_checkpoint", default="weights/AliTok.pth", help="tokenizer weights")
    parser.add_argument("--batch_size", type=at_least(1), default=32)
    parser.add_argument("--num_workers", type=at_least(0), default=8, help="decoding processes per process")
    parser.add_argument("--max_images", type=at_least(1), help="evaluate so many, spread evenly; default: all")
    parser.add_argument("--metrics", default=",".join(METRICS), help="lpips and rfid need network weights")
    parser.add_argument("--inception", help="Inception weights for rFID; default: as the evaluator finds them")
    parser.add_argument("--classifier", help="use this classifier (evaluation/train_classifier.py) for Inception")
    parser.add_argument("--lpips_checkpoint", help="VGG16 weights for LPIPS; default: torch's hub cache, or a download")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--device", choices=("cuda", "cpu"), help="default: a GPU if there is one")
    parser.add_argument("--json", type=Path, help="write the numbers to this file, too")
    parser.add_argument("--grid", type=Path, help="write originals and reconstructions to this PNG file")
    return parser.parse_args()


@entry_point
def main() -> None:
    args = parse_arguments()
    state = init_process(args.device)
    images = list_images(args.data_path, args.split)
    tokenizer = load_tokenizer(read_tokenizer_config(args.tokenizer_config), args.tokenizer_checkpoint, state.device)
    wanted = set(args.metrics.split(","))
    if not wanted <= {*METRICS}:
        raise UserError(f"--metrics {args.metrics}: choose of {','.join(METRICS)}")
    lpips = inception = None
    with state.local_main_process_first():
        if "lpips" in wanted:
            lpips = LPIPS(get_weights("VGG16", VGG16.url, "--lpips_checkpoint", args.lpips_checkpoint)).to(state.device)
    if "rfid" in wanted:
        inception = load_extractor(args.inception, args.classifier, state.device)
    evaluation = TokenizerEvaluation(
        images,
        tokenizer.image_size,
        batch_size=args.batch_size,
        num_workers=args.num_workers,
        max_images=args.max_images,
        lpips=lpips,
        inception=inception,
        autocast=lambda: torch.autocast(state.device.type, torch.bfloat16, enabled=args.precision == "bf16"),
    )
    metrics = evaluation.metrics(tokenizer)
    if state.is_main_process:
        for name, value in metrics.items():
            print(f"{name}: {value}")
        if args.json:
            write_atomically(args.json, lambda f: f.write(json.dumps(metrics, indent=2).encode()))
        if args.grid:
            save_png(evaluation.preview(tokenizer), args.grid)


if __name__ == "__main__":
    main()
