"""Image folders with few, small images."""

from pathlib import Path

import numpy as np
from PIL import Image

from tests.support.toy.sizes import NUM_CLASSES


def write_images(
    root: Path, per_class: int = 12, splits: tuple[str, ...] = ("train", "val"), noise: bool = False
) -> Path:
    """Gradients in one colour per class, in several sizes and modes; or noise. Returns `root`."""
    rng = np.random.default_rng(0)
    for split in splits:
        for c in range(NUM_CLASSES):
            folder = root / split / f"class_{c}"
            folder.mkdir(parents=True)
            for i in range(per_class):
                height, width = rng.integers(16, 40, 2)
                y, x = np.mgrid[0:height, 0:width] / 40
                colour = np.eye(4)[c][:3] + 0.2
                pixels = (255 * np.clip(colour * (x + y)[..., None] + rng.uniform(0, 0.2), 0, 1)).astype(np.uint8)
                if noise:
                    pixels = rng.integers(0, 256, pixels.shape, dtype=np.uint8)
                image = Image.fromarray(pixels)
                if i % 4 == 3:
                    image = image.convert("L")
                image.save(folder / f"{i:03d}.{'JPEG' if i % 2 else 'png'}")
    return root
