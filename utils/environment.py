"""Variables of the surroundings that would change the mathematics or the processes of a program behind its back."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from utils.errors import UserError, first_line

LAUNCH = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")  # set by torchrun and accelerate launch
NEUTRAL = ("", "0", "false", "no", "none")
# Accelerate would obey these by itself, in part: value without effect, and what to set in their place.
OBEYED_BY_ACCELERATE = {
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": ("1", "training.gradient_accumulation_steps"),
    "ACCELERATE_GRADIENT_CLIPPING": ("", "training.max_grad_norm"),
    "ACCELERATE_DYNAMO_BACKEND": ("", "training.compile=true"),
    "ACCELERATE_USE_FSDP": ("", "training.fsdp=true"),
    "ACCELERATE_USE_DEEPSPEED": ("", "training.fsdp=true"),
    "ACCELERATE_USE_MEGATRON_LM": ("", "training.fsdp=true"),
    "ACCELERATE_USE_PARALLELISM_CONFIG": ("", "training.fsdp=true"),
    "ACCELERATE_FP8_BACKEND": ("", "training.mixed_precision"),
    "ACCELERATE_DOWNCAST_BF16": ("", "training.mixed_precision"),
}


def require_known_environment(mixed_precision: str | None = None) -> None:
    """Raise UserError for a setting of accelerate's own configuration that this project has a key for, and for a
    launch that is not complete. mixed_precision: of a training."""
    obeyed = dict(OBEYED_BY_ACCELERATE)
    if mixed_precision is not None:
        obeyed["ACCELERATE_MIXED_PRECISION"] = (mixed_precision, "training.mixed_precision")
    for name, (neutral, key) in obeyed.items():
        value = os.environ.get(name, "").lower()
        if value not in (*NEUTRAL, neutral):
            raise UserError(
                f"{name}={os.environ[name]} (accelerate's configuration or the environment) is not followed here: unset"
                f" it, and set {key}"
            )
    _require_complete_launch()


def _require_complete_launch() -> None:
    there = [name for name in LAUNCH if os.environ.get(name)]
    numbers = {}
    for name in {*there} - {"MASTER_ADDR"}:
        try:
            numbers[name] = int(os.environ[name])
        except ValueError as error:
            raise UserError(f"{name}={os.environ[name]} is no number: {_advice(there)}") from error
    world = numbers.get("WORLD_SIZE", 1)
    if (world > 1 or "LOCAL_RANK" in numbers) and (missing := [name for name in LAUNCH if name not in there]):
        given = ", ".join(f"{name}={os.environ[name]}" for name in there)
        raise UserError(f"the environment has {given}, but no {', '.join(missing)}: {_advice(there)}")
    if not 0 <= numbers.get("RANK", 0) < world:
        raise UserError(f"RANK={numbers['RANK']} is not below WORLD_SIZE={world}: {_advice(there)}")


def _advice(there: list[str]) -> str:
    return f"start several processes with torchrun or accelerate launch, or one after `unset {' '.join(there)}`"


@contextmanager
def joining_processes() -> Iterator[None]:
    """Turn what accelerate and torch raise when processes cannot find each other into a UserError."""
    try:
        yield
    except (ValueError, RuntimeError, ImportError, NotImplementedError) as error:
        launch = ", ".join(f"{name}={os.environ[name]}" for name in LAUNCH if name in os.environ)
        raise UserError(f"the processes cannot be set up ({first_line(error)}); {launch or 'one process'}") from error
