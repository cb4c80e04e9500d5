"""Read and write model weights: plain torch state dicts and safetensors, never pickled code."""

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from utils.atomic import atomic_path
from utils.errors import UserError, first_line
from utils.wrapped_weights import find_state_dict, load_tensors, without_prefixes

EXPORTED_FILE = "model.safetensors"
WRITTEN_FILES = ("pytorch_model.bin", EXPORTED_FILE)  # by `export_weights`
FOLDER_FILES = ("ema.safetensors", EXPORTED_FILE, "pytorch_model.bin")  # weights in a folder, the first one there
MAX_KEYS_IN_ERROR = 3  # of each kind
MAX_QUOTED = 120  # characters of another library's message


def weights_file(path: str | Path) -> Path:
    """The path itself, or the weights in it if it is the folder of a training or of a checkpoint.

    A checkpoint's moving average goes first. Raises UserError for a folder without weights.
    """
    path = Path(path)
    if not path.is_dir():
        return path
    found = [path / name for name in FOLDER_FILES if (path / name).is_file()]
    if not found:
        unfinished = sorted((path / "checkpoints").glob("step_*"))
        hint = f"; the training is not finished, its newest checkpoint is {unfinished[-1]}" if unfinished else ""
        raise UserError(f"{path} is a folder without weights ({EXPORTED_FILE}){hint}")
    return found[0]


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read a state dict from .safetensors, or from anything torch.save wrote (.pth, .bin, .pt).

    path: see `weights_file`. `utils.wrapped_weights` says what is found inside other mappings.
    Raises UserError if the file is missing, truncated or holds no state dict.
    """
    path = weights_file(path)
    if not path.is_file():
        raise UserError(f"weights not found: {path} (README.md, 'Weights', says what goes where)")
    try:
        content = (
            safetensors.torch.load_file(path) if path.suffix == ".safetensors" else load_tensors(path, _is_zip(path))
        )
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} is damaged or not a checkpoint ({first_line(error)[:MAX_QUOTED]})") from error
    except Exception as error:  # torch raises pickle.UnpicklingError subclasses for foreign content
        raise UserError(f"{path} is not a checkpoint of plain tensors ({first_line(error)[:MAX_QUOTED]})") from error
    return find_state_dict(content, path)


def _is_zip(path: Path) -> bool:
    """Only torch's zip format can be memory-mapped; the format before 1.6 cannot."""
    with path.open("rb") as file:
        return file.read(2) == b"PK"


def _first_few(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - MAX_KEYS_IN_ERROR} more" if len(names) > MAX_KEYS_IN_ERROR else ""
    return ", ".join(names[:MAX_KEYS_IN_ERROR]) + more


def _variant(variants: Mapping[str, str], keys: Iterable[str]) -> str:
    keys = list(keys)
    found = (meaning for start, meaning in variants.items() if any(key.startswith(start) for key in keys))
    return next(found, "other weights")


def load_strict(
    model: nn.Module,
    state: Mapping[str, Tensor],
    source: str | Path,
    *,
    optional: Iterable[str] = (),
    prefixes: tuple[str, ...] = ("",),
    variants: Mapping[str, str] | None = None,
) -> None:
    """Load by name the keys that start with one of `prefixes`, by default all.

    Names as other programs wrap them are unwrapped first (`without_prefixes`).

    Keys in `optional` may be missing from `state`, or be in it without being in the model.
    variants: start of a key -> what a model with such keys is, for the error; the first one that is found counts.
    Raises UserError that names `source`, missing and unexpected keys, shapes that differ, and a tensor that
    holds NaN or infinity.
    """
    own = {k: v for k, v in model.state_dict().items() if k.startswith(prefixes)}
    optional = set(optional)
    state = without_prefixes(state, model.state_dict(), source)
    state = {k: v for k, v in state.items() if k.startswith(prefixes) and (k in own or k not in optional)}
    missing = [k for k in own if k not in state and k not in optional]
    unexpected = [k for k in state if k not in own]
    shapes = [
        f"{k} is {tuple(state[k].shape)} in the file, {tuple(own[k].shape)} in the configuration"
        for k in own
        if k in state and own[k].shape != state[k].shape
    ]
    problems = [
        f"{label}: {_first_few(names)}"
        for label, names in (("missing", missing), ("unexpected", unexpected), ("shapes differ", shapes))
        if names
    ]
    if problems:
        there, wanted = (_variant(variants or {}, keys) for keys in (state, own))
        known = f": it holds {there}, the configuration asks for {wanted}" if there != wanted else ""
        raise UserError(f"{source} does not match the configuration{known}; {'; '.join(problems)}")
    require_finite(state, source)
    meta = any(v.is_meta for v in own.values())
    # A model on the meta device has no storage to copy into: assign the tensors.
    model.load_state_dict({k: v.to(own[k].dtype) for k, v in state.items()}, strict=False, assign=meta)


def require_finite(state: Mapping[str, Tensor], source: str | Path) -> None:
    """Raise UserError that names `source` and its first tensor with NaN or infinity."""
    for name, value in state.items():
        # The extremes of a tensor with NaN are NaN; `isfinite` would make a copy of its size.
        if value.is_floating_point() and value.numel() and not torch.stack(value.aminmax()).isfinite().all():
            raise UserError(f"{source} holds NaN or infinity in {name}: these weights are of no use, take others")


def export_weights(folder: str | Path, state: Mapping[str, Tensor], step: int | None = None) -> list[Path]:
    """Write `pytorch_model.bin` (the published format), then `model.safetensors`, each atomically.

    step: the training step of these weights, read back by `exported_step`.
    Raises OSError, RuntimeError or SafetensorError if the disk is full.
    """
    state = {k: v.detach().cpu().contiguous() for k, v in state.items()}
    metadata = {} if step is None else {"step": str(step)}
    paths = [Path(folder) / name for name in WRITTEN_FILES]
    with atomic_path(paths[0]) as part:
        torch.save(state, part)
    with atomic_path(paths[1]) as part:
        safetensors.torch.save_file(state, part, metadata)
    return paths


def copy_weights(source: Path, target: Path) -> None:
    """Put the weights in `source`, of any format, into the safetensors file `target`, atomically.

    A safetensors file on the same file system is hard-linked. Raises UserError, OSError or SafetensorError.
    """
    with atomic_path(target) as part:
        part.unlink(missing_ok=True)
        if source.suffix != ".safetensors" or not _hard_link(source, part):
            safetensors.torch.save_file({k: v.contiguous() for k, v in read_state_dict(source).items()}, part)


def _hard_link(source: Path, target: Path) -> bool:
    try:
        os.link(source.resolve(), target)
    except OSError:  # another file system, or one without hard links
        return False
    return True


def exported_step(folder: str | Path) -> int | None:
    """The training step of the weights that `export_weights` wrote to this folder; None if it wrote none."""
    try:
        with safetensors.safe_open(Path(folder) / EXPORTED_FILE, "pt") as file:
            return int((file.metadata() or {})["step"])
    except (OSError, SafetensorError, KeyError):
        return None


def fingerprint(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes, dtypes and values."""
    digest = hashlib.sha256()
    for key in sorted(state):
        value = state[key].detach().cpu().contiguous()
        digest.update(f"{key} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
