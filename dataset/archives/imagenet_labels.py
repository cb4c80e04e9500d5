"""Classes of ImageNet's validation images, which lie flat in their folder or archive.

One of these files tells them, in the folder of the data or beside the archive:

LOC_val_solution.csv                             Kaggle's, also inside of its zip
ILSVRC2012_devkit_t12.tar.gz                     the devkit, or its unpacked folder ILSVRC2012_devkit_t12
imagenet_2012_validation_synset_labels.txt       a synset a line, in the order of the images
"""

import io
import re
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

from utils.errors import UserError, first_line

FLAT_NAME = re.compile(r"ILSVRC2012_val_(\d{8})")
KAGGLE = "LOC_val_solution.csv"
DEVKIT = "ILSVRC2012_devkit_t12"
GROUND_TRUTH, META = "data/ILSVRC2012_validation_ground_truth.txt", "data/meta.mat"
SYNSETS = ("imagenet_2012_validation_synset_labels.txt", "synset_labels.txt")
EXPECTED = f"{KAGGLE}, {DEVKIT}.tar.gz or {SYNSETS[0]}"


def label_files(places: Iterable[Path]) -> list[Path]:
    """The files with labels in some folders, and zip archives that hold one."""
    found = []
    for place in places:
        if place.is_file():
            found += [place] if place.suffix.lower() == ".zip" else []
            continue
        found += [place / name for name in (KAGGLE, f"{DEVKIT}.tar.gz", DEVKIT, *SYNSETS) if (place / name).exists()]
    return found


def read_classes(places: Iterable[Path]) -> dict[int, str]:
    """Number of each validation image, from 1 on -> its synset ("n01440764"); empty if no file tells them.

    places: folders, and archives that may hold the labels. Raises UserError for a damaged file.
    """
    files = label_files(places)
    try:
        return _read(files)
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, tarfile.TarError) as error:
        raise UserError(f"{', '.join(map(str, files))}: no labels can be read ({first_line(error)})") from error


def _read(files: Iterable[Path]) -> dict[int, str]:
    for path in files:
        if path.suffix.lower() == ".zip":
            with zipfile.ZipFile(path) as archive:
                inside = [name for name in archive.namelist() if name.rpartition("/")[2] == KAGGLE]
                if inside:
                    return _from_kaggle(archive.read(inside[0]).decode())
        elif path.name == KAGGLE:
            return _from_kaggle(path.read_text())
        elif path.name in SYNSETS:
            return dict(enumerate(path.read_text().split(), 1))
        elif path.is_dir():
            return _from_devkit((path / GROUND_TRUTH).read_text(), (path / META).read_bytes())
        else:
            with tarfile.open(path) as archive:
                truth, meta = (archive.extractfile(f"{DEVKIT}/{name}").read() for name in (GROUND_TRUTH, META))
            return _from_devkit(truth.decode(), meta)
    return {}


def _from_kaggle(text: str) -> dict[int, str]:
    """Lines "ILSVRC2012_val_00048981,n03995372 85 1 499 272": image, then synset and box of each object."""
    found = {}
    for line in text.splitlines()[1:]:
        name, _, objects = line.partition(",")
        found[int(FLAT_NAME.fullmatch(name)[1])] = objects.split()[0]
    return found


def _from_devkit(truth: str, meta: bytes) -> dict[int, str]:
    """truth: the number of a synset a line; meta: MATLAB's table of numbers and synsets."""
    from scipy.io import loadmat

    synsets = loadmat(io.BytesIO(meta), squeeze_me=True)["synsets"]
    names = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets}
    return {image: names[int(number)] for image, number in enumerate(truth.split(), 1)}
