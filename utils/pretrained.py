"""Weights of published networks: found on disk, or downloaded once and checked."""

import re
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from utils.errors import UserError, first_line


def hub_path(url: str) -> Path:
    """Where torch.hub keeps the file of `url`."""
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]


def local_folder(source: str | Path) -> Path:
    """A folder as it is, or the copy of a hub repository ("name/repository"), downloaded if need be.

    Raises UserError if it is neither.
    """
    if Path(source).is_dir():
        return Path(source)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)):
        raise UserError(f"{source} is no file, no folder and no hub id (name/repository)")
    try:
        return Path(snapshot_download(str(source), allow_patterns=["*.safetensors", "*.yaml"]))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        first = first_line(error)
        raise UserError(f"{source} is no folder here, and as a hub id it cannot be had: {first}") from error


def find_weights(what: str, url: str, key: str, given: str | None = None, places: tuple[str, ...] = ()) -> Path | None:
    """`given`, else the file in one of the folders `places`, else in torch's hub cache, else None.

    Raises UserError if `given`, the value of the option `key`, is not there.
    """
    if given:
        if not Path(given).is_file():
            raise UserError(f"{key}: {given} is not there ({what})")
        return Path(given)
    cached = hub_path(url)
    return next((path for path in (*(Path(p) / cached.name for p in places), cached) if path.is_file()), None)


def get_weights(what: str, url: str, key: str, given: str | None = None, places: tuple[str, ...] = ()) -> Path:
    """As `find_weights`, but downloaded to torch's hub cache if it is nowhere.

    File names of the form name-0123abcd.pth carry the start of their SHA-256, which is checked.
    Raises UserError that names the file and where to put it.
    """
    found = find_weights(what, url, key, given, places)
    if found:
        return found
    path = hub_path(url)
    checksum = re.search(r"-([0-9a-f]{8,})\.", path.name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), hash_prefix=checksum and checksum[1])
    except (OSError, RuntimeError) as error:
        where = " or ".join([str(Path(p) / path.name) for p in places] + [str(path)])
        raise UserError(
            f"no weights of {what}: the download failed ({error}). Get {url} elsewhere and put it to {where},"
            f" or name it with {key}"
        ) from error
    return path
