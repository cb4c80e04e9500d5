"""Draw images of some classes with one model, and show them while their codes are drawn."""

import shlex
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from demo.models import DemoModel
from demo.pictures import picture
from modeling.interfaces import CodeLayout
from sampling.decoding import fill_undrawn
from sampling.pipeline import Pipeline
from utils.errors import UserError

DRAWING = "drawing"  # before what an unfinished drawing says
LINE_PARTS = 16  # codes on a line are shown after each 16th of them


@dataclass(frozen=True)
class Drawing:
    """What decides the images, for any model. The numbers of the images are those of sample.py."""

    classes: tuple[int, ...]
    per_class: int
    seed: int
    settings: dict[str, Any]  # changes to the model's own settings of sampling

    @property
    def class_ids(self) -> list[int]:
        return [c for c in self.classes for _ in range(self.per_class)]

    def check(self, most: int) -> None:
        """Raise UserError for no image, and for more than `most`: the page takes what it is sent by anyone."""
        if not self.classes:
            raise UserError("choose at least one class")
        if self.per_class < 1:
            raise UserError("images of each class: at least 1")
        if len(self.classes) * self.per_class > most:
            raise UserError(f"{len(self.classes)} classes with {self.per_class} images each: at most {most} images")
        if not 0 <= self.seed < 2**63:
            raise UserError(f"the seed is {self.seed}, but must be in 0 .. 2^63 - 1")

    def command(self, model: DemoModel) -> str:
        """The command line that draws the same images into a file."""
        words = ["python", "sample.py", model.source, *model.arguments]
        words += ["--classes", ",".join(map(str, self.classes)), "--per_class", str(self.per_class)]
        words += ["--seed", str(self.seed)]
        for name, value in model.known(self.settings).items():
            words += [f"--{name}"] if value is True else [f"--{name}", str(value)]
        return shlex.join(words)


@dataclass
class Frame:
    """The images of a moment while they are drawn."""

    picture: Image.Image
    drawn: int  # codes of all images
    seconds: float  # for drawing and decoding, up to now
    finished: bool

    @property
    def text(self) -> str:
        state = "" if self.finished else f"{DRAWING}: "
        return f"{state}{self.drawn:,} codes in {self.seconds:.2f} s, {self.drawn / self.seconds:,.0f} codes/s"


def draw(model: DemoModel, drawing: Drawing) -> Iterator[Frame]:
    """Frames while the codes are drawn, and the finished images. Raises UserError."""
    pipeline = model.with_settings(drawing.settings)
    drawing.check(pipeline.batch_size)
    return frames(pipeline, drawing.class_ids, drawing.seed, drawing.per_class)


def frames(
    pipeline: Pipeline, class_ids: Sequence[int], seed: int, columns: int, kept: Tensor | None = None
) -> Iterator[Frame]:
    """A frame after each row of the grid, or part of a line of codes, and after a stage that draws several codes.

    columns: of the picture. kept: (1, T), codes that stay, see `Pipeline.keep_codes`.
    """
    layout = pipeline.generator.layout
    before = 0 if kept is None else int((kept >= 0).sum())
    stages = pipeline.stream_codes(class_ids, seed=seed, kept=kept)
    seconds, drawn, shown, finished = 0.0, before, _parts(layout, before), False
    while not finished:
        started = time.perf_counter()
        codes = next(stages)
        last, drawn = drawn, int((codes[0] >= 0).sum())
        finished = drawn == layout.num_codes
        due = finished or _parts(layout, drawn) > shown or drawn - last > 1
        images = pipeline.decode(fill_undrawn(codes)).cpu() if due else None
        seconds += time.perf_counter() - started
        if images is not None:
            shown = _parts(layout, drawn)
            yield Frame(picture(images, columns), (drawn - before) * len(class_ids), seconds, finished)


def _parts(layout: CodeLayout, drawn: int) -> int:
    """How many rows of the grid are drawn, or parts of the line."""
    unit = layout.grid[1] if layout.grid else max(1, layout.num_codes // LINE_PARTS)
    return max(0, drawn - layout.num_prefix) // unit


def random_seed() -> int:
    """Below 2^31: a browser keeps whole numbers of 53 bits."""
    return int(torch.randint(2**31, ()).item())
