"""Reading and writing model weights: plain torch state dicts and safetensors, never pickled code."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from utils.atomic import atomic_path
from utils.errors import UserError, first_line

EXPORTED = "model.safetensors"
SHOWN = 3  # how many keys of each kind an error lists
SHOWN_CHARACTERS = 120  # of another library's message


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read a state dict from .safetensors, or from anything torch.save wrote (.pth, .bin, .pt).

    Raises UserError if the file is missing, truncated or holds no state dict.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"weights not found: {path} (README.md, 'Weights', says what goes where)")
    try:
        if path.suffix == ".safetensors":
            state = safetensors.torch.load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} is damaged or no checkpoint ({first_line(error)[:SHOWN_CHARACTERS]})") from error
    except Exception as error:  # torch raises pickle.UnpicklingError subclasses for foreign content
        raise UserError(f"{path} is no checkpoint of plain tensors ({first_line(error)[:SHOWN_CHARACTERS]})") from error
    if not isinstance(state, Mapping) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise UserError(f"{path} holds no state dict (a mapping of names to tensors)")
    return dict(state)


def _is_zip(path: Path) -> bool:
    """Only torch's zip format can be memory-mapped; the format before 1.6 cannot."""
    with path.open("rb") as file:
        return file.read(2) == b"PK"


def _some(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def load_strict(
    model: nn.Module,
    state: Mapping[str, Tensor],
    source: str | Path,
    *,
    optional: Iterable[str] = (),
    prefixes: tuple[str, ...] = ("",),
) -> None:
    """Load by name the keys that start with one of `prefixes`, all of them by default.

    Keys in `optional` may be missing from or superfluous in `state`.
    Raises UserError that names the file, missing and unexpected keys and differing shapes.
    """
    own = {k: v for k, v in model.state_dict().items() if k.startswith(prefixes)}
    optional = set(optional)
    state = {k: v for k, v in state.items() if k.startswith(prefixes) and (k in own or k not in optional)}
    missing = [k for k in own if k not in state and k not in optional]
    unexpected = [k for k in state if k not in own]
    shapes = [
        f"{k} is {tuple(state[k].shape)} in the file, {tuple(own[k].shape)} in the configuration"
        for k in own
        if k in state and own[k].shape != state[k].shape
    ]
    problems = [
        f"{label}: {_some(names)}"
        for label, names in (("missing", missing), ("unexpected", unexpected), ("shapes differ", shapes))
        if names
    ]
    if problems:
        raise UserError(f"{source} does not match the configuration; {'; '.join(problems)}")
    meta = any(v.is_meta for v in own.values())
    # A model on the meta device becomes real by taking over the tensors themselves.
    model.load_state_dict({k: v.to(own[k].dtype) for k, v in state.items()}, strict=False, assign=meta)


# The codebook's usage statistics matter to stage-1 training alone: the published AliTok.pth
# lacks them, checkpoints of a training have them.
TOKENIZER_OPTIONAL_KEYS = ("quantize.embed_prob",)


# What decides the codes; stage 2 takes it over from stage 1 and freezes it.
ENCODER_PREFIXES = ("encoder.", "quantize.", "latent_tokens")


def load_encoder_weights(tokenizer: nn.Module, path: str | Path) -> None:
    """Load encoder, codebook and latent tokens of a stage-1 tokenizer, but not its decoder."""
    state = read_state_dict(path)
    load_strict(tokenizer, state, path, optional=TOKENIZER_OPTIONAL_KEYS, prefixes=ENCODER_PREFIXES)


def tokenizer_export(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The published form of a tokenizer's state dict, without training's usage statistics."""
    return {k: v for k, v in state.items() if k not in TOKENIZER_OPTIONAL_KEYS}


def export_weights(folder: str | Path, state: Mapping[str, Tensor], step: int | None = None) -> list[Path]:
    """Write `pytorch_model.bin` (the published form), then `model.safetensors`, each atomically.

    step: of the training they come from, see `exported_step`.
    Raises OSError, RuntimeError or SafetensorError if the disk takes no more.
    """
    state = {k: v.detach().cpu().contiguous() for k, v in state.items()}
    metadata = {} if step is None else {"step": str(step)}
    paths = [Path(folder) / name for name in ("pytorch_model.bin", EXPORTED)]
    with atomic_path(paths[0]) as part:
        torch.save(state, part)
    with atomic_path(paths[1]) as part:
        safetensors.torch.save_file(state, part, metadata)
    return paths


def exported_step(folder: str | Path) -> int | None:
    """The step of the training that `export_weights` wrote to this folder, if it did."""
    try:
        with safetensors.safe_open(Path(folder) / EXPORTED, "pt") as file:
            return int((file.metadata() or {})["step"])
    except (OSError, SafetensorError, KeyError):
        return None


def fingerprint(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes, dtypes and values: which weights made a file."""
    digest = hashlib.sha256()
    for key in sorted(state):
        value = state[key].detach().cpu().contiguous()
        digest.update(f"{key} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
