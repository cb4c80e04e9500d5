"""The models of the page: a pipeline each, with the names of its classes and its part of a command line."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dataset.class_names import class_names
from sampling.pipeline import Pipeline
from utils.errors import UserError
from utils.pretrained import weights_folder

PIXELATED = 128  # pixels


@dataclass
class DemoModel:
    """A model as a command line names it."""

    source: str  # folder, hub id or weights file
    pipeline: Pipeline
    class_names: Sequence[str]  # by class number
    arguments: tuple[str, ...] = ()  # what sample.py needs beside the source to load it

    def __post_init__(self) -> None:
        self._last = self.pipeline

    @property
    def name(self) -> str:
        """The last two parts of a path: folders of trainings are often called alike."""
        path = Path(self.source).expanduser()
        return "/".join(path.resolve().parts[-2:]) if path.exists() else self.source

    @property
    def pixelated(self) -> bool:
        """Whether its images are so small that they are shown with sharp pixels."""
        return self.pipeline.tokenizer.image_size <= PIXELATED

    @property
    def own(self) -> dict[str, Any]:
        """The settings of its configuration."""
        return asdict(self.pipeline.settings)

    def known(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Those of the settings that the model's way of decoding has."""
        return {name: value for name, value in settings.items() if name in self.own}

    def with_settings(self, settings: dict[str, Any]) -> Pipeline:
        """The pipeline with the settings that its way of decoding has. Raises UserError for values out of range."""
        try:
            changed = self.pipeline.with_settings(**self.known(settings))
        except ValueError as error:
            raise UserError(f"{self.name}: {error}") from error
        if changed.settings != self._last.settings:  # else keep the CUDA graphs that it has recorded
            self._last = changed
        return self._last


def load_models(
    sources: Sequence[str], *, config: Path | None = None, tokenizer: Path | None = None, **options: Any
) -> list[DemoModel]:
    """config, tokenizer: of sources that are weights files. options: of `Pipeline.from_pretrained`.

    Raises UserError, also for models with different numbers of classes.
    """
    given = {"--config": config, "--tokenizer": tokenizer}
    arguments = tuple(word for flag, path in given.items() if path for word in (flag, str(path)))
    models = []
    for source in sources:
        pipeline = Pipeline.from_pretrained(source, config=config, tokenizer=tokenizer, **options)
        names = class_names(weights_folder(source), pipeline.generator.num_classes)
        models.append(DemoModel(source, pipeline, names, arguments))
    if len({len(model.class_names) for model in models}) > 1:
        listed = ", ".join(f"{model.source} has {len(model.class_names)}" for model in models)
        raise UserError(f"the models have different numbers of classes: {listed}; compare models of one data set")
    return models
