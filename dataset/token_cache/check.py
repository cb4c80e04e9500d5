"""Check a token cache: its files, the statistics of its codes, and some codes against their images."""

import hashlib
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dataset.crops import center_crop, cut_views, source_size
from dataset.data_order import evenly_spaced
from dataset.decode import BadImage
from dataset.images import MAX_CLASSES_IN_MESSAGE, ImageList, to_float, to_uint8
from dataset.position_pictures import PositionValues, position_picture
from dataset.token_cache.metadata import CHECKSUMS_FILE
from dataset.token_cache.reader import TokenCache
from modeling.interfaces import CodeLayout, Tokenizer
from modeling.layers.codebook_usage import PositionUsage
from modeling.layers.precision import full_float32
from utils.errors import UserError, WriteError
from utils.images import grid, preview_scale, save_png
from utils.progress import tqdm

ROWS_PER_READ = 1024
HASH_BLOCK = 1 << 22  # bytes
MAX_DIFFERING = 0.5  # share of the codes; above, the cache belongs to another tokenizer or other images
NUM_DRAWN = 16  # images in check.png


def check_content(cache: TokenCache) -> PositionUsage:
    """Print what made the cache and the statistics of its codes; returns how often each code is at each position.

    The cache must have metadata. Raises UserError for a changed file, or codes or labels out of range.
    """
    metadata = cache.metadata
    sizes = f"{len(cache)} images, {cache.num_views} views of {cache.num_codes} codes"
    print(f"{cache.path}: {metadata.layout} layout, {sizes}")
    print(f"made with {metadata.crop} at {metadata.image_size} pixels in {metadata.precision}")
    print(f"tokenizer: {metadata.tokenizer_checkpoint or 'unknown'}, SHA-256 {metadata.tokenizer_sha256[:16]}")
    if metadata.skipped:
        print(f"without {len(metadata.skipped)} files that could not be decoded: {', '.join(metadata.skipped[:5])}")
    print(f"hashes: {verify_checksums(cache.path)} files are as written")
    positions = count_codes(cache, metadata.codebook_size)
    usage = positions.overall()
    counts = usage.counts
    common = int(counts.argmax())
    if counts[common] == counts.sum() and len(cache) > 1:
        raise UserError(f"{cache.path}: every code is {common}, so a broken tokenizer made this cache. Remove it")
    deciles = np.quantile(counts.numpy(), np.linspace(0, 1, 11)).astype(int)
    print(
        f"codebook: {usage.usage():.2%} of {len(counts)} codes used, perplexity {usage.perplexity():.1f},"
        f" most frequent code {common} ({float(counts[common] / counts.sum()):.2%} of all)"
    )
    print(f"occurrences of a code, minimum, deciles and maximum: {' '.join(map(str, deciles))}")
    entropy = positions.entropy()
    print(
        f"positions: entropy {entropy.min():.2f} to {entropy.max():.2f} bits of at most {math.log2(len(counts)):.2f},"
        f" {int(((positions.counts > 0).sum(1) == 1).sum())} of {len(entropy)} always have the same code"
    )
    images = np.bincount(check_labels(cache), minlength=cache.num_classes)
    print(f"classes: {cache.num_classes}, {images.min()} to {images.max()} images each")
    empty = [name for name, count in zip(cache.classes, images, strict=True) if not count]
    if empty:
        print(f"{len(empty)} classes without images: {', '.join(empty[:MAX_CLASSES_IN_MESSAGE])}")
    return positions


def draw_positions(positions: PositionUsage, layout: CodeLayout, path: Path) -> None:
    """Write a PNG: usage and entropy of the codes at each position."""
    panels = [
        PositionValues("different codes, % of the codebook", 100 * positions.usage().numpy()),
        PositionValues("entropy, bits", positions.entropy().numpy()),
    ]
    try:
        save_png(position_picture(panels, layout), path)
        print(f"wrote {path}: usage and entropy of the codes by position")
    except WriteError as error:  # the cache is in order, wherever it lies
        print(f"warning: no picture of the positions ({error})")


def verify_checksums(folder: Path) -> int:
    """Compare every file of SHA256SUMS; returns how many. Raises UserError with the first that differs."""
    lines = (folder / CHECKSUMS_FILE).read_text().splitlines() if (folder / CHECKSUMS_FILE).is_file() else []
    for line in tqdm(lines, "hashes", leave=False, mininterval=1.0):
        expected, _, name = line.partition("  ")
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


def count_codes(cache: TokenCache, codebook_size: int) -> PositionUsage:
    """Count all codes. Raises UserError for a code outside the codebook."""
    usage = PositionUsage(cache.num_codes, codebook_size)
    for start in tqdm(range(0, len(cache), ROWS_PER_READ), "codes", leave=False, mininterval=1.0):
        rows = range(start, min(start + ROWS_PER_READ, len(cache)))
        codes = np.stack([cache.views(i) for i in rows]).astype(np.int64)
        outside = (codes < 0) | (codes >= codebook_size)
        if outside.any():
            path = cache.paths()[start + int(outside.any((1, 2)).argmax())]
            raise UserError(f"token cache {cache.path}: {path} has codes outside [0, {codebook_size})")
        usage.add(torch.from_numpy(codes))
    return usage


def check_labels(cache: TokenCache) -> np.ndarray:
    """The labels. Raises UserError if they or the paths do not fit the codes."""
    if cache.labels.min() < 0 or cache.labels.max() >= cache.num_classes or len(cache.paths()) != len(cache):
        raise UserError(f"token cache {cache.path}: labels or paths do not fit the codes")
    return cache.labels


def check_against_images(cache: TokenCache, images: ImageList, tokenizer: Tokenizer, count: int) -> None:
    """Encode `count` images again, print how many codes differ, and draw some images into check.png.

    images: of the split. Raises UserError if one is not there, or most codes differ.
    """
    share = differing_codes(cache, images, tokenizer, count)
    print(f"{share:.3%} of the codes differ from a float32 encoding ({count} images)")
    if share > MAX_DIFFERING:
        raise UserError(f"{cache.path} does not hold the codes of the images in {images.root}: {share:.1%} differ")
    try:
        draw(cache, images, tokenizer, cache.path / "check.png")
        print(f"wrote {cache.path / 'check.png'}: source crops above their decoded codes")
    except WriteError as error:  # the codes are in order, wherever they lie
        print(f"warning: no picture of the check ({error})")


@torch.no_grad()
@full_float32()
def differing_codes(cache: TokenCache, images: ImageList, tokenizer: Tokenizer, count: int) -> float:
    """Share of the cached codes of `count` images that differ from a float32 encoding."""
    device = next(tokenizer.parameters()).device
    sources = SourceViews(cache, images)
    differing = []
    for i in tqdm(evenly_spaced(len(cache), count), "encoding in float32", leave=False, mininterval=1.0):
        codes = tokenizer.encode(sources[i].to(device))
        differing.append(float((codes.cpu().numpy() != cache.views(i)).mean()))
    return float(np.mean(differing))


class SourceViews:
    """All views of a cached image, (V, 3, S, S) in [0, 1], as they were encoded."""

    def __init__(self, cache: TokenCache, images: ImageList):
        self.metadata, self.paths, self.images = cache.metadata, cache.paths(), images
        self.rows = {path: row for row, path in enumerate(images.paths)}

    def __getitem__(self, index: int) -> Tensor:
        """index: in the cache. Raises UserError if its image is not there or cannot be decoded."""
        path = self.paths[index]
        if path not in self.rows:
            raise UserError(f"the source image {self.images.root / path} is not there")
        try:
            image = self.images.read(self.rows[path])
        except BadImage as error:
            raise UserError(f"the source image {self.images.root / path} cannot be read ({error})") from error
        crop = to_uint8(center_crop(image, source_size(self.metadata.image_size, self.metadata.ten_crop)))
        return to_float(cut_views(crop[None], self.metadata.image_size, self.metadata.ten_crop)[0])


@torch.no_grad()
def draw(cache: TokenCache, images: ImageList, tokenizer: Tokenizer, path: Path) -> None:
    """Write a PNG: the centre views of some source images, above their decoded codes."""
    device = next(tokenizer.parameters()).device
    chosen, views = evenly_spaced(len(cache), NUM_DRAWN), SourceViews(cache, images)
    centre = 4 if cache.metadata.ten_crop else 0
    sources = torch.stack([views[i][centre] for i in chosen])
    codes = torch.from_numpy(np.stack([cache.codes(i, centre) for i in chosen]).astype(np.int64))
    decoded = tokenizer.decode(codes.to(device)).cpu()
    save_png(grid(torch.cat([sources, decoded]), len(chosen), preview_scale(cache.metadata.image_size)), path)
