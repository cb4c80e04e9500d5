"""Looking into a token cache: is it whole, are its codes plausible, do they decode to their images?"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from dataset.crops import center_crop, cut_views, source_size
from dataset.data_order import spread
from dataset.image_folder import read_rgb, to_float, to_uint8
from dataset.token_cache.metadata import CHECKSUMS, CacheMetadata
from dataset.token_cache.reader import TokenCache
from modeling.interfaces import Tokenizer
from modeling.layers.codebook_usage import CodebookUsage
from modeling.layers.precision import full_float32
from utils.errors import UserError
from utils.images import grid, preview_scale, save_png

CENTRE_VIEW = {"ten_crop": 4, "center_and_flip": 0}
ROWS_AT_A_TIME = 1024
HASH_BLOCK = 1 << 22  # bytes


@dataclass(frozen=True)
class CodeSummary:
    """Statistics of all codes of a cache."""

    usage: CodebookUsage
    images_per_class: np.ndarray

    def lines(self) -> list[str]:
        counts = self.usage.counts
        common = int(counts.argmax())
        share = float(counts[common] / counts.sum())
        least, most = int(self.images_per_class.min()), int(self.images_per_class.max())
        deciles = np.quantile(counts.numpy(), np.linspace(0, 1, 11)).astype(int)
        return [
            f"codebook: {self.usage.usage():.2%} of {len(counts)} codes used, perplexity {self.usage.perplexity():.1f},"
            f" most frequent code {common} ({share:.2%} of all)",
            f"how often a code occurs, least to most in tenths: {' '.join(map(str, deciles))}",
            f"classes: {len(self.images_per_class)}, of {least} to {most} images",
        ]


def verify_checksums(folder: Path) -> int:
    """Compare every file of SHA256SUMS; returns how many. Raises UserError with the first that differs."""
    lines = (folder / CHECKSUMS).read_text().splitlines() if (folder / CHECKSUMS).is_file() else []
    for line in tqdm(lines, "hashes", leave=False, mininterval=1.0):
        expected, name = line.split("  ", 1)
        digest = hashlib.sha256()
        try:
            with (folder / name).open("rb") as file:
                while block := file.read(HASH_BLOCK):
                    digest.update(block)
        except OSError as error:
            raise UserError(f"token cache {folder} is damaged: {error}") from error
        if digest.hexdigest() != expected:
            raise UserError(f"token cache {folder} is damaged: {name} is not the file that was written")
    return len(lines)


def summarise(cache: TokenCache, codebook_size: int) -> CodeSummary:
    """Read all codes. Raises UserError for a code outside the codebook or a label outside the classes."""
    usage = CodebookUsage(codebook_size)
    for start in tqdm(range(0, len(cache), ROWS_AT_A_TIME), "codes", leave=False, mininterval=1.0):
        rows = range(start, min(start + ROWS_AT_A_TIME, len(cache)))
        codes = np.stack([cache.views(i) for i in rows]).astype(np.int64)
        if codes.min() < 0 or codes.max() >= codebook_size:
            paths = cache.paths()
            bad = next(i for i in rows if not 0 <= cache.views(i).min() <= cache.views(i).max() < codebook_size)
            raise UserError(f"token cache {cache.folder}: {paths[bad]} has codes outside [0, {codebook_size})")
        usage.add(torch.from_numpy(codes))
    if cache.labels.min() < 0 or cache.labels.max() >= cache.num_classes or len(cache.paths()) != len(cache):
        raise UserError(f"token cache {cache.folder}: labels or paths do not fit the codes")
    return CodeSummary(usage, np.bincount(cache.labels, minlength=cache.num_classes))


@torch.no_grad()
@full_float32()
def differing_codes(cache: TokenCache, metadata: CacheMetadata, root: Path, tokenizer: Tokenizer, count: int) -> float:
    """Share of the cached codes of `count` images that float32 encoding gives otherwise.

    root: folder of the split. Raises UserError if an image is not there.
    """
    device = next(tokenizer.parameters()).device
    paths = cache.paths()
    differing = []
    for i in tqdm(spread(len(cache), count), "encoding in float32", leave=False, mininterval=1.0):
        crop = source_crop(root / paths[i], metadata)
        codes = tokenizer.encode(to_float(cut_views(crop[None], metadata.image_size, _ten(metadata))[0].to(device)))
        differing.append(float((codes.cpu().numpy() != cache.views(i)).mean()))
    return float(np.mean(differing))


def _ten(metadata: CacheMetadata) -> bool:
    return metadata.crop == "ten_crop"


def source_crop(path: Path, metadata: CacheMetadata) -> torch.Tensor:
    """The centre crop that the views were cut from, (3, S, S) uint8."""
    try:
        image = read_rgb(path)
    except OSError as error:
        raise UserError(f"the source image {path} cannot be read ({error})") from error
    return to_uint8(center_crop(image, source_size(metadata.image_size, _ten(metadata))))


@torch.no_grad()
def draw(
    cache: TokenCache, metadata: CacheMetadata, root: Path, tokenizer: Tokenizer, path: Path, count: int = 16
) -> None:
    """Write a picture: source crops, above what their cached codes decode to."""
    device = next(tokenizer.parameters()).device
    chosen, view = spread(len(cache), count), CENTRE_VIEW[metadata.crop]
    paths = cache.paths()
    crops = torch.stack([source_crop(root / paths[i], metadata) for i in chosen])
    sources = to_float(cut_views(crops, metadata.image_size, _ten(metadata))[:, view])
    codes = torch.from_numpy(np.stack([cache.codes(i, view) for i in chosen]).astype(np.int64))
    decoded = tokenizer.decode(codes.to(device)).cpu()
    save_png(grid(torch.cat([sources, decoded]), len(chosen), preview_scale(metadata.image_size)), path)
