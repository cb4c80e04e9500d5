"""Names of the classes that a generator draws: in a file beside its weights, or ImageNet's."""

import re
from collections.abc import Sequence
from pathlib import Path

from dataset import imagenet_names
from utils.atomic import read_json, write_json
from utils.errors import UserError

CLASSES_FILE = "classes.json"  # {"classes": names of class folders, by class number}
NUM_IMAGENET_CLASSES = 1000


def keep_class_names(folder: Path, classes: Sequence[str]) -> None:
    """Write the names of the training data's classes beside a generator's weights."""
    write_json(folder / CLASSES_FILE, {"classes": list(classes)})


def class_names(folder: Path, num_classes: int) -> list[str]:
    """A name for each class of the generator in `folder`: from its file, else ImageNet's, else "class 7".

    OUTPUT/checkpoints/step_N has the file of OUTPUT. Raises UserError if the file is damaged.
    """
    of_training = folder.resolve().parent.parent
    places = (folder / CLASSES_FILE, of_training / CLASSES_FILE)
    kept = next((_read(path)[:num_classes] for path in places if path.is_file()), [])
    if num_classes == NUM_IMAGENET_CLASSES and all(_is_identifier(name) for name in kept):
        return [names[0] for names in imagenet_names.class_names()]
    names = [f"class {name}" if name.isdigit() else _without_number(name) for name in kept]
    return names + [f"class {number}" for number in range(len(names), num_classes)]


def _read(path: Path) -> list[str]:
    names = read_json(path).get("classes")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{path} holds no list of class names: remove it")
    return names


def _is_identifier(name: str) -> bool:
    """Whether a class folder is named by a number or by WordNet's identifier, as ImageNet's are."""
    return re.fullmatch(r"n\d{8}|\d+", name) is not None


def _without_number(name: str) -> str:
    """A folder's name without the number that sorts it: "00-t-shirt" -> "t-shirt"."""
    return re.sub(r"^\d+[-_ ](?=.)", "", name)
