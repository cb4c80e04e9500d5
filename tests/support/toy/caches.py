"""Token caches without a tokenizer."""

import json
from pathlib import Path

import numpy as np

from dataset.images import ImageList
from dataset.token_cache.metadata import CacheMetadata
from dataset.token_cache.writer import CacheWriter
from tests.support.toy.sizes import CODEBOOK_SIZE, IMAGE_SIZE, NUM_CLASSES, NUM_CODES


def write_token_cache(folder: Path, num_images: int = 24) -> Path:
    """A packed cache of random codes, in another range for each class; two views per image. Returns `folder`."""
    rng = np.random.default_rng(0)
    labels = np.arange(num_images) % NUM_CLASSES
    paths = tuple(f"{'abcd'[c]}/{i}.png" for i, c in enumerate(labels))
    images = ImageList(folder, tuple("abcd"), paths, labels)
    metadata = CacheMetadata(
        num_files=num_images,
        files_sha256=images.fingerprint(),
        num_views=2,
        num_codes=NUM_CODES,
        codebook_size=CODEBOOK_SIZE,
        image_size=IMAGE_SIZE,
        crop="center_and_flip",
        split="train",
        precision="fp32",
        tokenizer_sha256="none",
        classes=images.classes,
        shard_size=10,
    )
    writer = CacheWriter(folder, metadata, images)
    writer.prepare()
    for shard in range(writer.num_shards):
        indices = list(writer.items(shard))
        codes = rng.integers(0, 8, (len(indices), 2, NUM_CODES)) + 8 * labels[indices][:, None, None]
        writer.write(shard, indices, codes)
    writer.finish()
    return folder


def write_jsonl(path: Path, num_lines: int = 24, num_codes: int = 4) -> Path:
    """Published codes: a line an image, random codes in another range for each class. Returns `path`."""
    rng = np.random.default_rng(0)
    lines = []
    for i in range(num_lines):
        class_id = i % NUM_CLASSES
        tokens = rng.integers(8 * class_id, 8 * class_id + 8, num_codes).tolist()
        lines.append(json.dumps({"class_id": class_id, "tokens": tokens}) + "\n")
    path.write_text("".join(lines))
    return path
