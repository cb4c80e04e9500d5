"""The tab that encodes an uploaded image, shows its codes, and draws the image from a row on again."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image
from torch import Tensor

from demo.drawing import frames, random_seed
from demo.encoding import Encoded, codes_in_rows, encode, num_rows
from demo.events import MODELS_BUSY, class_choices, user_errors
from demo.models import DemoModel
from demo.pictures import code_picture, picture
from modeling.interfaces import CodeLayout
from utils.errors import UserError

NUM_COMPLETIONS = 4


class EditTab:
    """Builds its components inside the surrounding `gr.Blocks`."""

    def __init__(self, models: Sequence[DemoModel]):
        self.models = models
        with gr.Row():
            with gr.Column(scale=1, min_width=340):
                self._build_inputs()
            with gr.Column(scale=2):
                self._build_outputs()
        shown = [self.encoded, self.keep, self.crop, self.reconstruction, self.codes, self.text]
        shown += [self.completions, self.completion_text]
        for event in (self.upload.upload, self.upload.clear, self.model.change):
            event(user_errors(self._encode), [self.upload, self.model], shown, api_name=False, **MODELS_BUSY)
        self.keep.input(self._show_codes, [self.encoded, self.model, self.keep], self.codes, api_name=False)
        self.complete.click(
            user_errors(self._complete),
            [self.encoded, self.model, self.keep, self.class_id, self.seed],
            [self.completions, self.completion_text],
            show_progress="hidden",
            api_name=False,
            **MODELS_BUSY,
        )
        self.new_seed.click(random_seed, None, self.seed, api_name=False)

    def _build_inputs(self) -> None:
        names = [(model.name, number) for number, model in enumerate(self.models)]
        self.model = gr.Radio(names, value=0, label="Model", visible=len(names) > 1, elem_id="model")
        self.upload = gr.Image(
            label="Image",
            sources=["upload", "clipboard"],
            type="filepath",
            image_mode=None,
            height=260,
            elem_id="upload",
        )
        self.keep = gr.Slider(0, 1, 0, step=1, label="Rows kept", elem_id="keep")
        self.class_id = gr.Dropdown(
            class_choices(self.models[0]), value=0, label="Class of the rest", elem_id="class_id"
        )
        with gr.Row(elem_classes="centred"):
            self.seed = gr.Number(0, label="Seed", precision=0, minimum=0, min_width=120, elem_id="edit_seed")
            self.new_seed = gr.Button("New seed", size="sm", min_width=100)
        self.complete = gr.Button("Complete", variant="primary", elem_id="complete")

    def _build_outputs(self) -> None:
        look = {"format": "png", "interactive": False, "buttons": ["download", "fullscreen"]}
        sharp = "pixelated" if any(model.pixelated for model in self.models) else None
        with gr.Row():
            with gr.Column(min_width=300):
                with gr.Row():
                    self.crop = gr.Image(
                        label="As encoded", height=260, min_width=140, elem_id="crop", elem_classes=sharp, **look
                    )
                    self.reconstruction = gr.Image(
                        label="Reconstruction",
                        height=260,
                        min_width=140,
                        elem_id="reconstruction",
                        elem_classes=sharp,
                        **look,
                    )
                self.text = gr.Markdown("nothing encoded yet", elem_id="code_text", elem_classes="text")
            self.codes = gr.Image(label="Codes (grey: drawn again)", height=480, min_width=300, elem_id="codes", **look)
        self.completions = gr.Image(label="Completions", height=260, elem_id="completions", elem_classes=sharp, **look)
        self.completion_text = gr.Markdown("", elem_id="completion_text", elem_classes="text")
        self.encoded = gr.State(None)

    def _encode(self, file: str | None, number: int) -> tuple[Any, ...]:
        """What the tab shows of an image, or nothing if there is none."""
        if file is None:
            return None, gr.skip(), None, None, None, "nothing encoded yet", None, ""
        model = self.models[number]
        encoded, layout = encode(model, Path(file)), model.pipeline.generator.layout
        rows = num_rows(layout)
        keep = gr.Slider(maximum=rows, value=rows // 2, info=_explain_keep(layout))
        crop, reconstruction = (picture(images, 1) for images in (encoded.image, encoded.reconstruction))
        codes = self._show_codes(encoded, number, rows // 2)
        return encoded, keep, crop, reconstruction, codes, encoded.describe(layout.codebook_size), None, ""

    def _kept(self, encoded: Encoded, number: int, rows: int) -> Tensor:
        """(1, T), -1 where a code is drawn."""
        pipeline = self.models[number].pipeline
        return pipeline.keep_codes(encoded.codes, codes_in_rows(pipeline.generator.layout, rows)).cpu()

    def _show_codes(self, encoded: Encoded | None, number: int, rows: int) -> Image.Image | None:
        if encoded is None:
            return None
        kept = self._kept(encoded, number, rows)[0] >= 0
        layout = self.models[number].pipeline.generator.layout
        return code_picture(encoded.codes[0].tolist(), layout, kept.tolist())

    def _complete(
        self, encoded: Encoded | None, number: int, rows: int, class_id: int, seed: int
    ) -> Iterator[tuple[Image.Image, str]]:
        if encoded is None:
            raise UserError("upload an image first")
        pipeline = self.models[number].pipeline
        kept = self._kept(encoded, number, rows)
        for frame in frames(pipeline, [class_id] * NUM_COMPLETIONS, int(seed or 0), NUM_COMPLETIONS, kept):
            yield frame.picture, frame.text


def _explain_keep(layout: CodeLayout) -> str:
    prefix = f"; the {layout.num_prefix} prefix codes are always kept" if layout.num_prefix else ""
    return f"of {layout.grid[0]} rows of codes{prefix}" if layout.grid else f"of {layout.num_codes} codes on a line"
