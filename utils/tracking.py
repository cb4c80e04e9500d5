"""Where a training writes its numbers: always a JSONL file, and wandb or TensorBoard beside it."""

import json
from pathlib import Path
from typing import Any

from PIL import Image

LOG_FILE = "metrics.jsonl"


class Tracker:
    """Logs on the main process, and does nothing on the others.

    OUTPUT/metrics.jsonl holds one line per call: {"step": n, name: value, ...}. A tracker that
    cannot start or be reached costs a warning, never the training.
    """

    def __init__(self, output_dir: str | Path, config: dict[str, Any], *, use_wandb: bool, enabled: bool):
        self.enabled = enabled
        self._wandb = self._board = None
        if not enabled:
            return
        self.path = Path(output_dir) / LOG_FILE
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            if use_wandb:
                import wandb

                experiment = config["experiment"]
                self._wandb = wandb.init(
                    project=experiment["project"], name=experiment["name"], dir=str(output_dir), config=config
                )
            else:
                from torch.utils.tensorboard import SummaryWriter

                self._board = SummaryWriter(str(Path(output_dir) / "tensorboard"))
        except Exception as error:
            name = "wandb" if use_wandb else "TensorBoard"
            print(f"warning: {name} did not start ({error}); numbers go to {self.path} alone")

    def log(self, step: int, values: dict[str, float]) -> None:
        if not self.enabled:
            return
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        self._remote(lambda: self._wandb.log(values, step=step) if self._wandb else self._scalars(step, values))

    def image(self, step: int, name: str, image: Image.Image) -> None:
        if not self.enabled:
            return
        if self._wandb:
            from wandb import Image as WandbImage

            self._remote(lambda: self._wandb.log({name: WandbImage(image)}, step=step))

    def _scalars(self, step: int, values: dict[str, float]) -> None:
        if self._board:
            for name, value in values.items():
                if isinstance(value, int | float):
                    self._board.add_scalar(name, value, step)

    def _remote(self, send) -> None:
        try:
            send()
        except Exception as error:
            print(f"warning: tracking failed ({error}); numbers go on to {self.path}")

    def close(self) -> None:
        if self._wandb:
            self._remote(self._wandb.finish)
        if self._board:
            self._board.close()


def read_log(output_dir: str | Path) -> list[dict[str, Any]]:
    """Rows of metrics.jsonl in the order of their steps.

    Steps that a killed run had logged and its resumed successor logged again are given once; a
    line cut off by a kill is passed over.
    """
    rows: dict[tuple, dict[str, Any]] = {}
    path = Path(output_dir) / LOG_FILE
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        rows[(row["step"], tuple(sorted(row)))] = row
    return sorted(rows.values(), key=lambda row: row["step"])
