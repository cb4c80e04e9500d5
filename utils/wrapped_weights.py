"""Weights as other programs save them: inside other mappings, and with prefixes of DDP, torch.compile or Lightning."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from utils.errors import UserError, warn

PREFIXES = ("module.", "_orig_mod.", "model.")  # of DDP, torch.compile, Lightning
USUAL_NAMES = ("model", "state_dict", "module")  # of a model's weights in a training's file
AVERAGE_COUNTER = "n_averaged"  # torch's AveragedModel stores it beside "module."


class _Placeholder:
    """Stands for an object that is no tensor, such as the arguments of a training. Nothing of it is imported or run."""

    def __new__(cls, *_args: Any, **_options: Any) -> "_Placeholder":
        return object.__new__(cls)

    def __init__(self, *_args: Any, **_options: Any):
        pass

    def __setstate__(self, _state: Any) -> None:
        pass


def load_tensors(path: Path, mmap: bool) -> Any:
    """What torch.save wrote, with placeholders for objects that `weights_only` does not allow."""

    def load() -> Any:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)

    if not mmap:  # the format before torch 1.6 does not tell the names of its objects
        return load()
    foreign = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    with torch.serialization.safe_globals([(_Placeholder, name) for name in foreign]):
        return load()


def _is_state_dict(value: Any) -> bool:
    return isinstance(value, Mapping) and len(value) > 0 and all(isinstance(v, Tensor) for v in value.values())


def find_state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    """The state dict itself, or the one inside: of several the moving average, then that with a usual name.

    Says which one. Raises UserError if there is none, or no way to choose.
    """
    if _is_state_dict(content):
        return dict(content)
    entries = content.items() if isinstance(content, Mapping) else ()
    found = {name: value for name, value in entries if isinstance(name, str) and _is_state_dict(value)}
    averages = [name for name in found if "ema" in name.lower().split("_")]
    usual = [name for name in USUAL_NAMES if name in found]
    chosen = averages or usual or list(found)
    if not chosen:
        raise UserError(f"{path} holds no state dict (a mapping of names to tensors)")
    if len(averages) > 1 or not (averages or usual or len(found) == 1):
        raise UserError(f"{path} holds several state dicts ({', '.join(found)}): save one of them in a file of its own")
    others = f"; it also holds {', '.join(map(str, content.keys() - {chosen[0]}))}" if len(content) > 1 else ""
    warn(f"{path}: weights '{chosen[0]}'{others}")
    return dict(found[chosen[0]])


def without_prefixes(state: Mapping[str, Tensor], own: Mapping[str, Tensor], source: str | Path) -> dict[str, Tensor]:
    """The names of `state` without what other programs put before them, unless the model's `own` names have it too."""
    state, removed = dict(state), []
    if AVERAGE_COUNTER not in own:
        state.pop(AVERAGE_COUNTER, None)
    while prefix := next((p for p in PREFIXES if all(key.startswith(p) for key in state)), ""):
        if not state or any(key.startswith(prefix) for key in own):
            break
        state = {key.removeprefix(prefix): value for key, value in state.items()}
        removed.append(prefix)
    compiled = "._orig_mod."  # of blocks that were compiled one by one
    if any(compiled in key for key in state) and not any(compiled in key for key in own):
        state = {key.replace(compiled, "."): value for key, value in state.items()}
        removed.append(compiled)
    if removed:
        warn(f"{source}: names without '{''.join(removed)}'")
    return state
