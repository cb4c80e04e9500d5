"""Names of the classes that a generator draws: in a file beside its weights, or ImageNet's. Classes by name."""

import re
from collections.abc import Sequence
from pathlib import Path

from dataset import imagenet_names
from utils.atomic import read_json, write_json
from utils.errors import UserError, nearest

CLASSES_FILE = "classes.json"  # {"classes": names of class folders, by class number}
NUM_IMAGENET_CLASSES = 1000


def keep_class_names(folder: Path, classes: Sequence[str]) -> None:
    """Write the names of the training data's classes beside a generator's weights."""
    write_json(folder / CLASSES_FILE, {"classes": list(classes)})


def class_names(folder: Path, num_classes: int) -> list[str]:
    """A name for each class of the generator in `folder`: from its file, else ImageNet's, else "class 7".

    OUTPUT/checkpoints/step_N has the file of OUTPUT. Raises UserError if the file is damaged.
    """
    return [names[0] for names in _all_names(folder, num_classes)]


def class_id(text: str, folder: Path, num_classes: int) -> int:
    """The number of the class that `text` names: a number, or one of its names. Raises UserError.

    folder: that of the generator, see `class_names`.
    """
    wanted = text.strip().lower()
    if re.fullmatch(r"-?\d+", wanted):
        if not 0 <= int(wanted) < num_classes:
            raise UserError(f"class {wanted} is out of range, the classes are 0 to {num_classes - 1}")
        return int(wanted)
    classes = [{name.lower() for name in names} for names in _all_names(folder, num_classes)]
    found = [number for number, names in enumerate(classes) if wanted in names]
    if not found:
        raise UserError(f"no class of {folder} is named '{text.strip()}'{nearest(wanted, set().union(*classes))}")
    if len(found) > 1:
        raise UserError(f"'{text.strip()}' names the classes {', '.join(map(str, found))}: give the number")
    return found[0]


def _all_names(folder: Path, num_classes: int) -> list[tuple[str, ...]]:
    """The names of each class; the first is the usual one."""
    of_training = folder.resolve().parent.parent
    places = (folder / CLASSES_FILE, of_training / CLASSES_FILE)
    kept = next((_read(path)[:num_classes] for path in places if path.is_file()), [])
    if num_classes == NUM_IMAGENET_CLASSES and all(_is_identifier(name) for name in kept):
        return list(imagenet_names.class_names())
    names = [(f"class {name}" if name.isdigit() else _without_number(name), name) for name in kept]
    return names + [(f"class {number}",) for number in range(len(names), num_classes)]


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
