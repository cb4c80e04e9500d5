"""Validation of a tokenizer on centre crops: PSNR, codebook usage, a grid to look at."""

from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

from dataset.image_folder import ImageList, to_float
from dataset.image_loader import CenterCrops
from evaluation.reconstruction import CodebookUsage, psnr
from utils.images import grid, preview_scale

NUM_PREVIEWS = 16


@dataclass
class Validation:
    metrics: dict[str, float]
    preview: Image.Image  # originals above reconstructions


def spread(total: int, count: int) -> np.ndarray:
    """`count` indices spread evenly over [0, total), so over all classes."""
    return np.unique(np.linspace(0, total - 1, min(count, total)).astype(int))


@torch.no_grad()
def validate(
    tokenizer: torch.nn.Module,
    images: ImageList,
    accelerator: Accelerator,
    *,
    batch_size: int,
    num_workers: int,
    max_images: int,
) -> Validation:
    """Every rank takes its share of the images; the numbers are those of all of them."""
    was_training = tokenizer.training
    tokenizer.eval()
    crops = CenterCrops(images, tokenizer.image_size)
    chosen = spread(len(images), max_images)
    mine = chosen[accelerator.process_index :: accelerator.num_processes]
    loader = DataLoader(Subset(crops, mine.tolist()), batch_size, num_workers=num_workers)
    usage = CodebookUsage(tokenizer.codebook_size, accelerator.device)
    sums = torch.zeros(2, dtype=torch.float64, device=accelerator.device)
    for batch in tqdm(loader, "validating", leave=False, disable=not accelerator.is_main_process, mininterval=1.0):
        x = to_float(batch.to(accelerator.device))
        with accelerator.autocast():
            out = tokenizer(x)
        usage.add(out.codes)
        values = psnr(x, out.reconstruction)
        sums += torch.stack([values.double().sum(), torch.tensor(len(x), device=x.device).double()])
    sums = accelerator.reduce(sums)
    usage.counts = accelerator.reduce(usage.counts)
    shown = torch.stack([crops[i] for i in spread(len(images), NUM_PREVIEWS)])
    shown = to_float(shown.to(accelerator.device))
    with accelerator.autocast():
        drawn = tokenizer(shown).reconstruction
    tokenizer.train(was_training)
    metrics = {
        "val_psnr": float(sums[0] / sums[1]),
        "val_codebook_usage": usage.usage(),
        "val_codebook_perplexity": usage.perplexity(),
    }
    sheet = grid(torch.cat([shown, drawn]), columns=len(shown), scale=preview_scale(tokenizer.image_size))
    return Validation(metrics, sheet)
