"""Log numbers and images: always to a JSONL file, and to wandb or TensorBoard."""

import json
import secrets
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from utils.config import option
from utils.errors import UserError, first_line
from utils.images import save_png
from utils.progress import tqdm

LOG_FILE = "metrics.jsonl"
WANDB_TIMEOUT = 30  # seconds


@dataclass
class LogSettings:
    """Part of `experiment`."""

    project: str = option("alitok", "wandb project")
    name: str = option("alitok", "run name, and the title of plots")
    log_every: int = option(100, "steps between log lines", min=1)


@dataclass
class WandbSettings:
    """Part of `training`."""

    enable_wandb: bool = option(True, "false: TensorBoard; metrics.jsonl is always written")


class Logger:
    """Logs on the main process, and does nothing on the others.

    OUTPUT/metrics.jsonl holds one line per call: {"step": n, name: value, ...}. If wandb or TensorBoard
    cannot start or cannot be reached, a warning is printed and the training continues.
    """

    def __init__(
        self,
        output_dir: str | Path,
        config: dict[str, Any],
        *,
        use_wandb: bool,
        enabled: bool,
        first_step: int = 0,
        watch: Callable[[int, dict[str, float]], Iterable[str]] | None = None,
    ):
        """first_step: > 0 resumes metrics.jsonl and the wandb run; 0 starts new ones and renames an old log.
        watch: called with each step and its values; the lines that it returns are printed."""
        self.enabled, self._watch = enabled, watch
        self._resumed = first_step > 0
        self._wandb = self._board = None
        if not enabled:
            return
        self.path = Path(output_dir) / LOG_FILE
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not self._resumed:
            _rename_old_log(self.path)
        try:
            if use_wandb:
                import wandb

                self._wandb = self._start_wandb(wandb, config)
            else:
                from torch.utils.tensorboard import SummaryWriter

                purge = first_step + 1 if self._resumed else 0  # TensorBoard hides earlier numbers from this step on
                self._board = SummaryWriter(str(Path(output_dir) / "tensorboard"), purge_step=purge)
        except Exception as error:
            name = "wandb" if use_wandb else "TensorBoard"
            print(f"warning: {name} did not start ({error}); numbers only go to {self.path}")

    def _start_wandb(self, wandb: Any, config: dict[str, Any]) -> Any:
        """Start a run as WANDB_MODE says, or an offline one if server or login is missing."""
        experiment = config["experiment"]
        chosen = {"project": experiment["project"], "name": experiment["name"], "dir": str(self.path.parent)}
        chosen |= {"id": self._run_id(), "resume": "allow"}
        try:
            settings = wandb.Settings(init_timeout=WANDB_TIMEOUT)
            return wandb.init(**chosen, config=config, settings=settings)
        except Exception as error:
            print(f"warning: wandb cannot be reached ({first_line(error)}); logging offline, see `wandb sync`")
            wandb.teardown()  # the failed run keeps its id in use
            return wandb.init(**chosen, config=config, mode="offline")

    def _run_id(self) -> str:
        record = self.path.parent / "wandb_run_id.txt"
        if self._resumed and record.is_file():
            return record.read_text().strip()
        run_id = secrets.token_hex(4)
        record.write_text(run_id + "\n")
        return run_id

    def log(self, step: int, values: dict[str, float]) -> None:
        if not self.enabled:
            return
        try:
            with self.path.open("a") as file:
                file.write(json.dumps({"step": step, **values}) + "\n")
        except OSError as error:  # a full disk must not end the training
            tqdm.write(f"warning: {self.path} could not be written ({error})")
        for line in self._watch(step, values) if self._watch else ():
            tqdm.write(line, file=sys.stderr)
        self._send(lambda: self._wandb.log(values, step=step) if self._wandb else self._scalars(step, values))

    def image(self, step: int, name: str, image: Image.Image, file: str | None = None) -> None:
        """Write OUTPUT/previews/step_N.png, or OUTPUT/`file`, and log the image."""
        if not self.enabled:
            return
        file = file or f"previews/step_{step:08d}.png"
        self._send(lambda: save_png(image, self.path.parent / file))
        if self._wandb:
            from wandb import Image as WandbImage

            self._send(lambda: self._wandb.log({name: WandbImage(image)}, step=step))
        elif self._board:
            self._send(lambda: self._board.add_image(name, np.asarray(image), step, dataformats="HWC"))

    def _scalars(self, step: int, values: dict[str, float]) -> None:
        if self._board:
            for name, value in values.items():
                if isinstance(value, int | float):
                    self._board.add_scalar(name, value, step)

    def _send(self, send) -> None:
        try:
            send()
        except Exception as error:
            tqdm.write(f"warning: tracking failed ({error}); numbers still go to {self.path}")

    def close(self) -> None:
        if self._wandb:
            self._send(self._wandb.finish)
        if self._board:
            self._send(self._board.close)


def _rename_old_log(path: Path) -> None:
    """Rename the log of an earlier training to metrics.1.jsonl, metrics.2.jsonl, ..."""
    if path.is_file():
        free = next(n for n in count(1) if not path.with_suffix(f".{n}.jsonl").exists())
        path.rename(path.with_suffix(f".{free}.jsonl"))


def read_log(output_dir: str | Path) -> list[dict[str, Any]]:
    """Rows of metrics.jsonl by step.

    A step that a killed run and then the resumed run logged appears once, with the values of the resumed
    run. A line that a kill cut off or a disk damaged is skipped.
    """
    rows: dict[tuple, dict[str, Any]] = {}
    path = Path(output_dir) / LOG_FILE
    for line in path.read_text(errors="replace").splitlines() if path.is_file() else []:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if not isinstance(row, dict) or "step" not in row:
            continue
        rows[(row["step"], tuple(sorted(row)))] = row
    return sorted(rows.values(), key=lambda row: row["step"])


def last_logged(output_dir: str | Path, name: str) -> float:
    """The last value of `name` in metrics.jsonl. Raises UserError if there is none."""
    values = [row[name] for row in read_log(output_dir) if name in row]
    if not values:
        raise UserError(f"{Path(output_dir) / LOG_FILE} holds no {name}; remove {output_dir} and train again")
    return values[-1]
