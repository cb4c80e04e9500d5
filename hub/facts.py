"""What a folder of weights tells about itself: its configuration, and what its training wrote beside them."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from modeling.configs import read_models_config, read_tokenizer_config
from training.checkpoint_files import checkpoint_step
from training.logging import read_log
from training.record import RECORD_FILE
from utils.atomic import read_json
from utils.errors import UserError
from utils.pretrained import config_file
from utils.weights import exported_step
from utils.yaml_files import read_yaml

PREVIEWS = "previews"


@dataclass(frozen=True)
class Facts:
    """About a tokenizer, or a generator with or without its tokenizer."""

    folder: Path
    config_file: Path
    tokenizer: Any  # settings
    generator: Any | None  # settings; None: the folder holds a tokenizer
    config: dict[str, Any]  # everything in the configuration file; trainings write all values
    record: dict[str, Any] = field(default_factory=dict)  # training.json
    step: int | None = None  # optimizer steps of the exported weights
    metrics: dict[str, tuple[int, float]] = field(default_factory=dict)  # last value of each: step, value
    picture: Path | None = None  # newest preview
    curves: Path | None = None

    @property
    def classes(self) -> list[Any]:
        """Names of the training data's classes, by number; empty if unknown."""
        return self.record.get("data", {}).get("classes") or []


def read_facts(folder: str | Path) -> Facts:
    """Of a checkpoint: what its training wrote up to it. Raises UserError for a folder without a configuration."""
    folder = Path(folder)
    path = config_file(folder)
    if not path.is_file():
        raise UserError(f"{folder} has no {path.name}: name the output folder of a training, or of save_pretrained")
    given = read_yaml(path)
    is_generator = OmegaConf.select(given, "model.generator") is not None
    models = read_models_config(path) if is_generator else None
    training, previews, step = path.parent, sorted((path.parent / PREVIEWS).glob("*.png")), exported_step(folder)
    if training != folder:
        step = checkpoint_step(folder)
        previews = [picture for picture in previews if picture.stem <= folder.name]  # both are step_00001000
    record, curves, metrics = training / RECORD_FILE, training / "curves.png", {}
    for row in read_log(training):
        if step is None or row["step"] <= step:
            metrics |= {name: (row["step"], value) for name, value in row.items() if name != "step"}
    return Facts(
        folder=folder,
        config_file=path,
        tokenizer=models.vq_model if models else read_tokenizer_config(path),
        generator=models.generator if models else None,
        config=yaml.safe_load(path.read_text()),
        record=read_json(record) if record.is_file() else {},
        step=step,
        metrics=metrics,
        picture=previews[-1] if previews else None,
        curves=curves if curves.is_file() else None,
    )
