"""Decode an image file to RGB: one set of rules for training, token caches, references and evaluation.

bits             16-bit greys keep their upper 8 bits, as Pillow does it for 16-bit colours; 32-bit integers and
                 floats have no known range and are refused
orientation      the EXIF tag is applied: pictures stand as viewers show them
transparency     alpha, transparent palette entries and colour keys are laid over white, as browsers do it
animations       the first frame
colour profiles  ignored
size             more than MAX_PIXELS are refused, JPEG files first tried at a reduced scale; a picture more than
                 MAX_ASPECT times as long as wide is cut to its middle
"""

from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from utils.errors import first_line

MAX_PIXELS = 2**27  # 0.4 GB as RGB
MAX_ASPECT = 16  # crops scale the shorter side to their size: without a limit the longer one has none
BITS_PER_SAMPLE, PHOTOMETRIC = 258, 262  # TIFF tags
ORIENTATION = 0x0112  # EXIF tag
TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Raise for a truncated file; do not return an image with a grey lower half.
ImageFile.LOAD_TRUNCATED_IMAGES = False
# Pillow's own limit holds before a JPEG file is reduced, and warns from 89 million pixels on; `_load` has the limit.
Image.MAX_IMAGE_PIXELS = 64 * MAX_PIXELS

Image.init()
# Formats that Pillow only names, and those that start another program (Ghostscript).
NOT_DECODED = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
FORMATS = sorted(({*Image.registered_extensions().values()} & {*Image.OPEN}) - NOT_DECODED)
# Of all images that the installed Pillow reads; MPO is a JPEG file with more pictures behind the first.
IMAGE_SUFFIXES = frozenset(s for s, name in Image.registered_extensions().items() if name in {*FORMATS, "MPO"})


class BadImage(Exception):
    """A file that cannot be decoded; the message says why."""


def read_rgb(file: str | Path | BinaryIO) -> Image.Image:
    """Decode a file to RGB. Raises BadImage, whatever the decoder raises."""
    try:
        with Image.open(file, formats=FORMATS) as image:
            _load(image)
            upright = _turn(_eight_bits(image), _orientation(image))
            return _to_rgb(_cut_to_aspect(upright))
    except UnidentifiedImageError as error:
        raise BadImage("not an image, or damaged at its beginning") from error
    except Exception as error:  # decoders raise anything for damaged files: struct.error, IndexError, ...
        raise BadImage(first_line(error)) from error


def _load(image: Image.Image) -> None:
    """Decode the pixels, unless there are too many."""
    if image.width * image.height > MAX_PIXELS:
        size = f"{image.width}x{image.height}"
        image.draft(image.mode, (image.width // 8, image.height // 8))  # of a JPEG file: an eighth of each side
        if image.width * image.height > MAX_PIXELS or f"{image.width}x{image.height}" == size:
            raise ValueError(f"{size} pixels, at most {MAX_PIXELS} are decoded")
    image.load()


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(ORIENTATION, 1)
    except Exception:  # damaged EXIF data do no harm to the pixels
        return 1


def _turn(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(TRANSPOSITIONS[orientation]) if orientation in TRANSPOSITIONS else image


def _cut_to_aspect(image: Image.Image) -> Image.Image:
    limit = MAX_ASPECT * min(image.size)
    width, height = min(image.width, limit), min(image.height, limit)
    if (width, height) == image.size:
        return image
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def _eight_bits(image: Image.Image) -> Image.Image:
    """Greys of more than 8 bits to mode L; other modes as they are. Raises ValueError if the range is unknown."""
    if not image.mode.startswith(("I", "F")):
        return image
    tags = getattr(image, "tag_v2", {})
    bits = tags.get(BITS_PER_SAMPLE, (16,))[0]
    # Pillow widens the 16-bit greys of PNG (before version 11) and PGM files to mode I.
    if not (image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))):
        raise ValueError(f"mode {image.mode}: pixels of 32 bits have no known range, save them with 8 or 16 bits")
    grey = (np.asarray(image).astype(np.int32) >> (bits - 8)).clip(0, 255).astype(np.uint8)
    return Image.fromarray(255 - grey if tags.get(PHOTOMETRIC) == 0 else grey)


def _to_rgb(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    canvas = Image.new("RGB", image.size, "white")
    canvas.paste(image, mask=image)
    return canvas
