"""Pixels of a file: bits, orientation, transparency, sizes, damage."""

import io
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dataset.crops import center_crop, random_crop, resize_center_crop
from dataset.decode import IMAGE_SUFFIXES, MAX_ASPECT, MAX_PIXELS, ORIENTATION, BadImage, read_rgb
from tests.support import data_cases
from tests.support.damage import mutate
from tests.support.paths import ROOT

WHITE, BLACK, RED = (255, 255, 255), (0, 0, 0), (255, 0, 0)


def encoded(image: Image.Image, format: str, **options) -> io.BytesIO:
    buffer = io.BytesIO()
    image.save(buffer, format=format, **options)
    buffer.seek(0)
    return buffer


def test_sixteen_bits_are_scaled_to_eight(tmp_path):
    folder = data_cases.deep_pixels(tmp_path) / "train" / "a-first"
    expected = np.linspace(0, 65535, 32).astype(np.uint16) >> 8
    for name in ("0-16bit.png", "1-16bit.tif", "2-16bit.pgm"):
        pixels = np.asarray(read_rgb(folder / name))
        assert pixels.shape == (32, 32, 3)
        assert (pixels == expected[None, :, None]).all(), name
    for name, mode in (("3-int32.tif", "I"), ("4-float.tif", "F")):
        with pytest.raises(BadImage, match=rf"mode {mode}: pixels of 32 bits have no known range"):
            read_rgb(folder / name)


def tiff(values: np.ndarray, bits: int, photometric: int) -> bytes:
    """An uncompressed grey TIFF file of 12 bits (two values in three bytes) or 16. values: (H, W), W even."""
    pairs = values.reshape(-1, 2).astype(int)
    packed = np.stack([pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8, pairs[:, 1] & 255], 1)
    data = packed.astype(np.uint8).tobytes() if bits == 12 else values.astype("<u2").tobytes()
    height, width = values.shape
    tags = ((256, width), (257, height), (258, bits), (259, 1), (262, photometric), (273, 8), (277, 1), (278, height))
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in (*tags, (279, len(data))))
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", 9) + entries + bytes(4)


def test_twelve_bits_and_inverted_greys_of_tiff_files():
    values = np.arange(0, 4096, 64).reshape(2, 32)
    pixels = np.asarray(read_rgb(io.BytesIO(tiff(values, 12, photometric=1))))
    assert (pixels == (values >> 4)[..., None]).all()
    inverted = np.asarray(read_rgb(io.BytesIO(tiff(values << 4, 16, photometric=0))))
    assert (inverted == 255 - (values >> 4)[..., None]).all()


def turned(orientation: int) -> np.ndarray:
    """A JPEG file with an EXIF orientation, decoded: red at the top left, as far as its pixels are stored."""
    image = Image.new("RGB", (48, 32), BLACK)
    image.paste(RED, (0, 0, 16, 16))
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return np.asarray(read_rgb(encoded(image, "JPEG", exif=exif, quality=95)))


@pytest.mark.parametrize(
    ("orientation", "size", "corner"),
    [
        (1, (32, 48), (0, 0)),
        (2, (32, 48), (0, -1)),
        (3, (32, 48), (-1, -1)),
        (4, (32, 48), (-1, 0)),
        (5, (48, 32), (0, 0)),
        (6, (48, 32), (0, -1)),
        (7, (48, 32), (-1, -1)),
        (8, (48, 32), (-1, 0)),
        (99, (32, 48), (0, 0)),
    ],
)
def test_orientation_is_applied(orientation, size, corner):
    """EXIF 2.3, table of tag 274: the side of the picture that row 0 and column 0 are."""
    pixels = turned(orientation)
    assert pixels.shape == (*size, 3)
    bright = {(y, x) for y in (0, -1) for x in (0, -1) if pixels[y, x, 0] > 128}
    assert bright == {corner}


def test_a_tiff_file_is_turned_once():
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    assert read_rgb(encoded(Image.new("RGB", (48, 32)), "TIFF", exif=exif)).size == (32, 48)


def test_damaged_exif_does_no_harm():
    assert read_rgb(encoded(Image.new("RGB", (8, 8), RED), "PNG", exif=b"Exif\0\0MM\0*\xff\xff")).size == (8, 8)


def test_transparency_is_laid_over_white():
    half = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    half.paste((255, 0, 0, 255), (0, 0, 4, 8))
    for image in (half, half.convert("LA")):
        pixels = read_rgb(encoded(image, "PNG"))
        assert pixels.getpixel((7, 0)) == WHITE
        assert pixels.getpixel((0, 0)) == (RED if image.mode == "RGBA" else (76, 76, 76))
    mixed = read_rgb(encoded(Image.new("RGBA", (1, 1), (0, 0, 0, 128)), "PNG")).getpixel((0, 0))
    assert mixed == (127, 127, 127)
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([*BLACK, *RED])
    palette.paste(0, (4, 0, 8, 8))
    for format in ("PNG", "GIF"):
        pixels = read_rgb(encoded(palette, format, transparency=0))
        assert pixels.getpixel((7, 0)) == WHITE, format
        assert pixels.getpixel((0, 0)) == RED, format
    keyed = Image.new("RGB", (8, 8), RED)
    keyed.paste((0, 0, 9), (4, 0, 8, 8))
    pixels = read_rgb(encoded(keyed, "PNG", transparency=(0, 0, 9)))
    assert (pixels.getpixel((0, 0)), pixels.getpixel((7, 0))) == (RED, WHITE)


def test_opaque_pixels_stay_as_they_are():
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 4), dtype=np.uint8)
    pixels[..., 3] = 255
    assert (np.asarray(read_rgb(encoded(Image.fromarray(pixels), "PNG"))) == pixels[..., :3]).all()


def test_the_first_picture_of_an_animation():
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, BLACK)]
    for format in ("GIF", "PNG", "TIFF"):
        animation = encoded(frames[0], format, save_all=True, append_images=frames[1:])
        assert read_rgb(animation).getpixel((0, 0)) == RED


def test_suffixes_are_those_that_pillow_reads():
    assert {".jpg", ".jpe", ".jfif", ".png", ".pgm", ".ppm", ".webp", ".tif", ".gif", ".bmp", ".jp2"} <= IMAGE_SUFFIXES
    assert not {".txt", ".json", ".pdf", ".ps", ".eps", ".mpg", ".h5", ".npz", ""} & IMAGE_SUFFIXES


def test_a_picture_that_would_start_ghostscript_is_refused():
    with pytest.raises(BadImage, match="not an image"):
        read_rgb(encoded(Image.new("RGB", (8, 8)), "EPS"))


def test_long_pictures_are_cut_to_their_middle():
    line = Image.new("RGB", (20000, 2), BLACK)
    line.paste(RED, (9990, 0, 10010, 2))
    image = read_rgb(encoded(line, "PNG"))
    assert image.size == (2 * MAX_ASPECT, 2)
    assert [image.getpixel((x, 0)) for x in (5, 6, 25, 26)] == [BLACK, RED, RED, BLACK]
    assert read_rgb(encoded(line.transpose(Image.Transpose.ROTATE_90), "PNG")).size == (2, 2 * MAX_ASPECT)
    common = Image.new("RGB", (320, 20))
    assert read_rgb(encoded(common, "PNG")).size == (320, 20)


MEASURE = """
import resource, sys
from dataset.crops import center_crop, random_crop
from dataset.decode import BadImage, read_rgb
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[1:]:
    try:
        image = read_rgb(path)
        center_crop(image, 281), random_crop(image, 256, (0.5, 0.5, 0.5), True)
    except BadImage as error:
        print(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
def test_memory_of_extreme_sizes_is_bounded(tmp_path):
    """A line, and a picture with too many pixels in a small file."""
    Image.new("L", (60000, 1)).save(tmp_path / "line.png")
    Image.new("1", (12000, 12000)).save(tmp_path / "large.png")
    paths = [tmp_path / name for name in ("line.png", "large.png")]
    command = [sys.executable, "-W", "ignore", "-c", MEASURE, *paths]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    assert output[:-1] == [f"12000x12000 pixels, at most {MAX_PIXELS} are decoded"]
    assert int(output[-1]) < 200_000  # kB; the line's crop alone would take 14 GB


@pytest.mark.filterwarnings("error")
def test_a_large_jpeg_file_is_decoded_at_a_reduced_scale():
    """Beyond the number of pixels from which Pillow refuses a file."""
    image = Image.new("L", (16000, 12000), 200)
    image.paste(20, (0, 0, 6000, 12000))
    small = read_rgb(encoded(image, "JPEG"))
    assert small.size == (2000, 1500)
    assert small.getpixel((100, 100)) == (20, 20, 20)
    assert small.getpixel((1400, 100)) == (200, 200, 200)


def seeds() -> dict[str, bytes]:
    """Small files of the common formats, in several modes."""
    rng = np.random.default_rng(0)
    colour = Image.fromarray(rng.integers(0, 256, (23, 37, 3), dtype=np.uint8))
    clear = Image.fromarray(rng.integers(0, 256, (23, 37, 4), dtype=np.uint8))
    deep = Image.fromarray(rng.integers(0, 65536, (23, 37), dtype=np.uint16))
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    files = {
        f: encoded(colour, f) for f in ("BMP", "GIF", "ICO", "JPEG2000", "PCX", "PPM", "QOI", "SGI", "TGA", "WEBP")
    }
    files |= {"jpeg": encoded(colour, "JPEG", exif=exif), "cmyk": encoded(colour.convert("CMYK"), "JPEG")}
    files |= {"progressive": encoded(colour, "JPEG", progressive=True), "png": encoded(clear, "PNG", exif=exif)}
    files |= {"palette": encoded(colour.quantize(16), "PNG", transparency=3), "deep": encoded(deep, "PNG")}
    files |= {"tiff": encoded(colour, "TIFF"), "lzw": encoded(deep, "TIFF", compression="tiff_lzw")}
    return {name: file.getvalue() for name, file in files.items()}


@pytest.mark.filterwarnings("ignore")
def test_a_damaged_file_is_an_image_or_a_bad_file():
    """Whatever a decoder makes of it: an RGB image that all crops take, or BadImage; nothing else."""
    rng, bad, good = np.random.default_rng(0), 0, 0
    for name, data in seeds().items():
        assert read_rgb(io.BytesIO(data)).mode == "RGB", name
        for _ in range(60):
            try:
                image = read_rgb(io.BytesIO(mutate(data, rng)))
            except BadImage as error:
                assert str(error)
                bad += 1
                continue
            assert image.mode == "RGB"
            crops = (
                center_crop(image, 16),
                random_crop(image, 16, (0.9, 0.9, 0.1), True),
                resize_center_crop(image, 16),
            )
            assert {crop.size for crop in crops} == {(16, 16)}
            good += 1
    assert bad > 300
    assert good > 100


@pytest.mark.parametrize("error", [struct.error("unpack"), IndexError(), MemoryError(), RecursionError("deep")])
def test_any_error_of_a_decoder_is_a_bad_file(monkeypatch, error, tmp_path: Path):
    """Plugins raise what their code happens to raise."""
    Image.new("RGB", (8, 8)).save(tmp_path / "0.png")

    def load(self):
        raise error

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", load)
    with pytest.raises(BadImage, match=str(error) or type(error).__name__):
        read_rgb(tmp_path / "0.png")


def test_a_missing_file_is_a_bad_file(tmp_path):
    with pytest.raises(BadImage, match="No such file"):
        read_rgb(tmp_path / "none.png")
