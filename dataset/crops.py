"""Crops: ADM's centre crop, the ten crops of a token cache, the random crop of training."""

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

TEN_CROP_SCALE = 1.1
RESIZES = {"bilinear": InterpolationMode.BILINEAR, "bicubic": InterpolationMode.BICUBIC}  # both antialiased
NUM_VIEWS = {True: 10, False: 2}  # by `ten_crop`


def center_crop(image: Image.Image, size: int) -> Image.Image:
    """ADM's centre crop: halve with BOX while at least twice too large, BICUBIC to `size`, cut the centre.

    ADM is OpenAI's guided-diffusion. Its reference statistics were made with this crop.
    """
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    width, height = round(image.width * scale), round(image.height * scale)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return image.crop((left, top, left + size, top + size))


def random_crop(
    image: Image.Image, size: int, u: tuple[float, float, float], flip: bool, resize: str = "bilinear"
) -> Image.Image:
    """The view for training: shorter side to `size`, a random square, a random mirror image.

    u: three uniform numbers in [0, 1) for row, column and mirroring. resize: a key of RESIZES.
    """
    image = F.resize(image, size, RESIZES[resize])
    top, left = (int(x * (side - size + 1)) for x, side in zip(u, (image.height, image.width), strict=False))
    if image.size != (size, size):
        image = image.crop((left, top, left + size, top + size))
    return F.hflip(image) if flip and u[2] < 0.5 else image


def resize_center_crop(image: Image.Image, size: int, resize: str = "bilinear") -> Image.Image:
    """The view for validation: as `random_crop`, but at the centre and not mirrored."""
    return F.center_crop(F.resize(image, size, RESIZES[resize]), [size, size])


def source_size(image_size: int, ten_crop: bool) -> int:
    """Side of the centre crop that the views are cut from."""
    return int(TEN_CROP_SCALE * image_size) if ten_crop else image_size


def cut_views(images: Tensor, image_size: int, ten_crop: bool) -> Tensor:
    """Cut the views of a token cache.

    images: (B, 3, S, S) with S = source_size(...); any dtype, any device.
    Returns (B, V, 3, image_size, image_size). With `ten_crop`: the top-left, top-right, bottom-left,
    bottom-right and centre crops, then the same five of the mirror image (torchvision's TenCrop).
    Without: the image and its mirror image.
    """
    if not ten_crop:
        return torch.stack([images, images.flip(-1)], dim=1)
    return torch.stack(F.ten_crop(images, [image_size, image_size]), dim=1)
