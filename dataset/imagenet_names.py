"""ImageNet's class names, from timm's metadata."""

from functools import cache

from utils.errors import UserError, nearest


@cache
def class_names() -> tuple[tuple[str, ...], ...]:
    """The names of each of the 1000 classes, in lower case; the first is the usual one."""
    from timm.data import ImageNetInfo  # imported here because it takes seconds

    info = ImageNetInfo("imagenet-1k")
    descriptions = (info.index_to_description(i) for i in range(info.num_classes()))
    return tuple(tuple(name.strip().lower() for name in text.split(",")) for text in descriptions)


def class_id(text: str, num_classes: int) -> int:
    """The class with a number, or an ImageNet class with a name ("golden retriever"). Raises UserError."""
    if text.strip().lstrip("-").isdecimal():
        number = int(text)
        if not 0 <= number < num_classes:
            raise UserError(f"class {number} is out of range, the classes are 0 to {num_classes - 1}")
        return number
    if num_classes != len(class_names()):
        raise UserError(f"'{text}' is not a number: only ImageNet's 1000 classes have names here")
    wanted = text.strip().lower()
    found = [i for i, names in enumerate(class_names()) if wanted in names]
    if not found:
        raise UserError(
            f"no ImageNet class is named '{text}'{nearest(wanted, [n for ns in class_names() for n in ns])}"
        )
    if len(found) > 1:
        raise UserError(f"'{text}' names the classes {', '.join(map(str, found))}: give the number")
    return found[0]
