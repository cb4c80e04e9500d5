"""Fashion-MNIST as an ImageNet-style folder tree of 32x32 PNG files.

    python -m dataset.fashion_mnist --output data/fashion_mnist

The four files come from --source, else from torchvision's mirrors, else from Debian's package of the
data set, which is unpacked and not installed. The uncompressed files must have the known SHA-256.
"""

import argparse
import gzip
from pathlib import Path

import numpy as np
from PIL import Image
from torchvision.datasets import FashionMNIST

from dataset.debian_package import POOL, SOURCE_ERRORS, download, unpack, verified
from utils.arguments import file_path
from utils.atomic import atomic_folder
from utils.errors import UserError, entry_point
from utils.folder_lock import exclusive_lock
from utils.progress import tqdm

CLASSES = (
    "t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle-boot",
)  # fmt: skip
# name -> SHA-256 of the uncompressed file
FILES = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
SPLITS = {"train": "train", "val": "t10k"}
DEBIAN_PACKAGE = f"{POOL}d/dataset-fashion-mnist/dataset-fashion-mnist_0.0~git20200523.55506a9-1_all.deb"
IMAGE_SIZE = 32


def _verified(name: str, data: bytes, source: str) -> bytes:
    """`data`, uncompressed. Raises ValueError if it has the wrong SHA-256."""
    if data[:2] == b"\x1f\x8b":
        data = gzip.decompress(data)
    return verified(data, FILES[name], f"{name} from {source}")


def _from_folder(folder: Path) -> dict[str, bytes]:
    found = {}
    for name in FILES:
        path = next((p for p in (folder / name, folder / f"{name}.gz") if p.is_file()), None)
        if path is None:
            raise UserError(f"{folder} holds neither {name} nor {name}.gz")
        try:
            found[name] = _verified(name, path.read_bytes(), str(path))
        except SOURCE_ERRORS as error:
            raise UserError(f"{path}: {error}") from error
    return found


def _from_mirror(mirror: str) -> dict[str, bytes]:
    return {name: _verified(name, download(f"{mirror}{name}.gz"), mirror) for name in FILES}


def _from_debian(url: str = DEBIAN_PACKAGE) -> dict[str, bytes]:
    found = {}
    for path, data in unpack(download(url), lambda path: _name(path) in FILES):
        found[_name(path)] = _verified(_name(path), data, "Debian's package")
    if found.keys() != FILES.keys():
        raise ValueError("Debian's package lacks some of the files")
    return found


def _name(path: str) -> str:
    return Path(path).name.removesuffix(".gz")


def fetch(source: Path | None) -> dict[str, bytes]:
    """The four verified files by name, from `source` or the first network source that has them."""
    if source is not None:
        return _from_folder(source)
    failures = []
    attempts = [(m, lambda m=m: _from_mirror(m)) for m in FashionMNIST.mirrors] + [("Debian's archive", _from_debian)]
    for name, attempt in attempts:
        try:
            return attempt()
        except SOURCE_ERRORS as error:
            failures.append(f"{name}: {error}")
            print(f"{name} failed ({error})")
    raise UserError(
        "Fashion-MNIST could not be downloaded. Put its four files into a folder and name it with"
        f" --source. Tried {'; '.join(failures)}"
    )


def _parse(images: bytes, labels: bytes) -> tuple[np.ndarray, np.ndarray]:
    """IDX files have a header of 16 and 8 bytes, then the values."""
    labels = np.frombuffer(labels, np.uint8, offset=8)
    return np.frombuffer(images, np.uint8, offset=16).reshape(len(labels), 28, 28), labels


def write_tree(files: dict[str, bytes], output: Path) -> None:
    """Write OUTPUT/{train,val}/<class>/<index>.png, zero-padded to 32x32 RGB.

    The folder of a split appears when it is complete.
    """
    for split, prefix in SPLITS.items():
        if (output / split).is_dir():
            continue
        images, labels = _parse(files[f"{prefix}-images-idx3-ubyte"], files[f"{prefix}-labels-idx1-ubyte"])
        margin = (IMAGE_SIZE - images.shape[1]) // 2
        images = np.pad(images, ((0, 0), (margin, margin), (margin, margin)))
        with atomic_folder(output / split) as part:
            # Two digits first: the folders then sort in the order of the labels.
            folders = [part / f"{i:02d}-{name}" for i, name in enumerate(CLASSES)]
            for folder in folders:
                folder.mkdir()
            rows = zip(images, labels, strict=True)
            for i, (image, label) in enumerate(tqdm(rows, total=len(labels), desc=f"writing {split}")):
                rgb = Image.fromarray(image).convert("RGB")
                rgb.save(folders[label] / f"{i:05d}.png", compress_level=1)


@entry_point
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=file_path, default=Path("data/fashion_mnist"), help="folder to write")
    parser.add_argument("--source", type=file_path, help="folder with the four original files (.gz or not)")
    args = parser.parse_args()
    if all((args.output / split).is_dir() for split in SPLITS):
        print(f"{args.output} is complete")
        return
    with exclusive_lock(args.output):
        write_tree(fetch(args.source), args.output)


if __name__ == "__main__":
    main()
