"""ImageNet's class names, from timm's metadata."""

from functools import cache


@cache
def class_names() -> tuple[tuple[str, ...], ...]:
    """The names of each of the 1000 classes, in lower case; the first is the usual one."""
    from timm.data import ImageNetInfo  # imported here because it takes seconds

    info = ImageNetInfo("imagenet-1k")
    descriptions = (info.index_to_description(i) for i in range(info.num_classes()))
    return tuple(tuple(name.strip().lower() for name in text.split(",")) for text in descriptions)
