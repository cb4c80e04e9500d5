"""The tab that draws images of classes, with one picture for each model, and keeps what was drawn."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr
from PIL import Image

from demo.controls import given_settings, setting_fields
from demo.drawing import DRAWING, Drawing, draw, random_seed
from demo.events import MODELS_BUSY, class_choices, user_errors
from demo.models import DemoModel
from utils.images import labelled_columns

MAX_PAST = 24  # drawings that are kept for each visitor
THUMBNAIL = 240  # pixels
MAX_CLASSES = 8
MAX_PER_CLASS = 8


@dataclass
class Past:
    """A finished drawing."""

    drawing: Drawing
    picture: Image.Image
    caption: str
    commands: str


class DrawTab:
    """Builds its components inside the surrounding `gr.Blocks`."""

    def __init__(self, models: Sequence[DemoModel]):
        self.models = models
        with gr.Row():
            with gr.Column(scale=1, min_width=340):
                self._build_inputs()
            with gr.Column(scale=2):
                self._build_outputs()
        inputs = [self.classes, self.per_class, self.seed, *self.settings.values()]
        running = self.draw.click(
            user_errors(self._draw),
            [self.past, *inputs],
            [*self.pictures, *self.texts, self.past, self.gallery, self.commands, self.chosen],
            show_progress="hidden",
            api_name=False,
            **MODELS_BUSY,
        )
        self.stop.click(self._say_stopped, self.texts, self.texts, cancels=[running], api_name=False)
        self.new_seed.click(random_seed, None, self.seed, api_name=False)
        self.gallery.select(self._show_commands, self.past, [self.commands, self.chosen], api_name=False)
        self.again.click(self._fill_in, [self.past, self.chosen], inputs, api_name=False)

    def _build_inputs(self) -> None:
        self.classes = gr.Dropdown(
            class_choices(self.models[0]),
            value=[0],
            multiselect=True,
            max_choices=MAX_CLASSES,
            label="Classes",
            info="type to search",
            elem_id="classes",
        )
        self.per_class = gr.Slider(1, MAX_PER_CLASS, 4, step=1, label="Images of each class", elem_id="per_class")
        with gr.Row(elem_classes="centred"):
            self.seed = gr.Number(
                self.models[0].pipeline.seed, label="Seed", precision=0, minimum=0, min_width=120, elem_id="seed"
            )
            self.new_seed = gr.Button("New seed", size="sm", min_width=100, elem_id="new_seed")
        with gr.Row():
            self.draw = gr.Button("Draw", variant="primary", min_width=120, elem_id="draw")
            self.stop = gr.Button("Stop", min_width=100, elem_id="stop")
        with gr.Accordion("Settings of sampling (empty: the model's own)", open=True), gr.Row():
            self.settings = setting_fields(self.models)

    def _build_outputs(self) -> None:
        self.pictures, self.texts = [], []
        with gr.Row():
            for number, model in enumerate(self.models):
                with gr.Column(min_width=320):
                    self.pictures.append(
                        gr.Image(
                            label=model.name,
                            format="png",
                            height=420,
                            interactive=False,
                            buttons=["download", "fullscreen"],
                            elem_id=f"picture_{number}",
                            elem_classes="pixelated" if model.pixelated else None,
                        )
                    )
                    self.texts.append(gr.Markdown("nothing drawn yet", elem_id=f"text_{number}", elem_classes="text"))
        self.past, self.chosen = gr.State([]), gr.State(0)
        self.gallery = gr.Gallery(
            label="Drawn before (newest first); choose one to see what draws it again",
            format="png",
            columns=5,
            fit_columns=False,
            height=200,
            object_fit="contain",
            allow_preview=False,
            buttons=[],
            interactive=False,
            elem_id="gallery",
        )
        self.commands = gr.Code(
            "# shown after the first drawing",
            label="The same images by command",
            language="shell",
            interactive=False,
            wrap_lines=True,
            show_line_numbers=False,
            lines=1,
            elem_id="commands",
        )
        self.again = gr.Button("Fill in these settings", size="sm", elem_id="again")

    def _draw(
        self, past: list[Past], classes: list[int], per_class: int, seed: int, *values: Any
    ) -> Iterator[dict[Any, Any]]:
        drawing = Drawing(tuple(classes), int(per_class), int(seed or 0), given_settings([*self.settings], values))
        done = []
        yield dict.fromkeys(self.texts, DRAWING)
        for model, picture, text in zip(self.models, self.pictures, self.texts, strict=True):
            left_out = sorted(drawing.settings.keys() - model.known(drawing.settings).keys())
            note = f"; without {', '.join(left_out)}, which its decoding does not have" if left_out else ""
            for frame in draw(model, drawing):
                yield {picture: frame.picture, text: frame.text + note}
            done.append(frame.picture)
        past = [self._remember(drawing, done), *past][:MAX_PAST]
        thumbnails = [(entry.picture, entry.caption) for entry in past]
        yield {self.past: past, self.gallery: thumbnails, self.commands: past[0].commands, self.chosen: 0}

    def _say_stopped(self, *texts: str) -> dict[gr.Markdown, str]:
        words = [f"stopped{text.removeprefix(DRAWING)}" if text.startswith(DRAWING) else text for text in texts]
        return dict(zip(self.texts, words, strict=True))

    def _remember(self, drawing: Drawing, pictures: list[Image.Image]) -> Past:
        sheet = labelled_columns(pictures, [model.name for model in self.models]) if len(pictures) > 1 else pictures[0]
        sheet = sheet.copy()
        sheet.thumbnail((THUMBNAIL * len(pictures), THUMBNAIL))
        names = ", ".join(self.models[0].class_names[c] for c in drawing.classes)
        words = [f"seed {drawing.seed}", names, *(f"{name} {value}" for name, value in drawing.settings.items())]
        commands = "\n".join(drawing.command(model) for model in self.models)
        return Past(drawing, sheet, "; ".join(words), commands)

    def _show_commands(self, past: list[Past], event: gr.SelectData) -> tuple[str, int]:
        return past[event.index].commands, event.index

    def _fill_in(self, past: list[Past], chosen: int) -> list[Any]:
        if not past:
            return [gr.skip()] * (3 + len(self.settings))
        drawing = past[chosen].drawing
        texts = [str(drawing.settings.get(name, "")) for name in self.settings]
        return [list(drawing.classes), drawing.per_class, drawing.seed, *texts]
