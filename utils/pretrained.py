"""Weights of published networks: found on disk, or downloaded once and verified."""

import re
from pathlib import Path

import torch
from huggingface_hub import snapshot_download

from utils.errors import UserError
from utils.hub_errors import hub_errors, split_hub_id
from utils.weights import weights_file

TOKENIZER_FILE = "tokenizer.safetensors"  # beside a generator's weights
CONFIG_FILE, PUBLISHED_CONFIG_FILE = "config.yaml", "config.json"
WEIGHT_SUFFIXES = (".bin", ".pth", ".pt", ".safetensors")


def hub_path(url: str) -> Path:
    """Where torch.hub caches the file of `url`."""
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]


def local_folder(source: str | Path) -> Path:
    """`source` if it is a folder, else the local copy of a hub repository, downloaded if missing.

    A repository is "name/repository", or "name/repository@revision" with a branch, a tag or a commit.
    Raises UserError if it is neither.
    """
    if Path(source).is_dir():
        return Path(source)
    hub_id = split_hub_id(str(source))
    if hub_id is None:
        raise UserError(f"{source} is neither a file, nor a folder, nor a hub id (name/repository)")
    repository, revision = hub_id
    with hub_errors(f"{source} is neither a folder nor a hub repository"):
        wanted = ["*.safetensors", "*.yaml", "*.json"]
        return Path(snapshot_download(repository, revision=revision, allow_patterns=wanted))


def _is_file_name(source: str | Path, suffixes: tuple[str, ...]) -> bool:
    """Whether `source` names a file, there or not, and no folder or hub id."""
    return Path(source).is_file() or (Path(source).suffix in suffixes and not Path(source).is_dir())


def pretrained_weights(source: str | Path) -> Path:
    """`source` if it names a file, else the weights in that folder or hub repository. Raises UserError."""
    return Path(source) if _is_file_name(source, WEIGHT_SUFFIXES) else weights_file(local_folder(source))


def weights_folder(source: str | Path) -> Path:
    """The folder that holds the weights of `source`, see `pretrained_weights`. Raises UserError."""
    return Path(source).parent if _is_file_name(source, WEIGHT_SUFFIXES) else local_folder(source)


def find_pretrained_weights(source: str | Path) -> Path | None:
    """As `pretrained_weights`, but None if there is no such file, folder or hub repository.

    Raises UserError for a folder without weights.
    """
    try:
        path = pretrained_weights(source)
    except UserError:
        if Path(source).exists():
            raise
        return None
    return path if path.is_file() else None


def tokenizer_beside(source: str | Path) -> str | Path:
    """`source`, or the tokenizer's weights in it if it is the folder or hub repository of a generator with both."""
    if _is_file_name(source, WEIGHT_SUFFIXES):
        return source
    try:
        beside = local_folder(source) / TOKENIZER_FILE
    except UserError:
        return source
    return beside if beside.is_file() else source


def config_file(source: str | Path) -> Path:
    """`source` if it names a file, else the configuration in that folder or hub repository.

    It is config.yaml, as trainings write it, else config.json, as published. OUTPUT/checkpoints/step_N has that of
    OUTPUT. Raises UserError.
    """
    if _is_file_name(source, (".yaml", ".yml", ".json")):
        return Path(source)
    folder = local_folder(source)
    of_training = folder.resolve().parent.parent
    places = (folder / CONFIG_FILE, folder / PUBLISHED_CONFIG_FILE, of_training / CONFIG_FILE)
    return next((path for path in places if path.is_file()), places[0])


def find_weights(
    network: str, url: str, option: str, path: str | None = None, folders: tuple[str, ...] = ()
) -> Path | None:
    """`path` if given, else the file of `url` in `folders`, else in torch's hub cache, else None.

    network and option: named in the error if `path` (the value of `option`) does not exist. Raises UserError.
    """
    if path:
        if not Path(path).is_file():
            raise UserError(f"{option}: file not found: {path} (weights of {network})")
        return Path(path)
    cached = hub_path(url)
    return next((file for file in (*(Path(f) / cached.name for f in folders), cached) if file.is_file()), None)


def get_weights(network: str, url: str, option: str, path: str | None = None, folders: tuple[str, ...] = ()) -> Path:
    """Like `find_weights`, but downloads a missing file to torch's hub cache.

    File names of the form name-0123abcd.pth carry the start of their SHA-256, which is verified.
    Raises UserError that names the file and where to put it.
    """
    found = find_weights(network, url, option, path, folders)
    if found:
        return found
    target = hub_path(url)
    checksum = re.search(r"-([0-9a-f]{8,})\.", target.name)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(target), hash_prefix=checksum and checksum[1])
    except (OSError, RuntimeError) as error:
        places = " or ".join(str(file) for file in (*(Path(f) / target.name for f in folders), target))
        raise UserError(
            f"no weights of {network}: the download failed ({error}). Download {url} elsewhere and put it at {places},"
            f" or pass its path as {option}"
        ) from error
    return target
