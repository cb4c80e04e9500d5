"""Images from classes, for notebooks and scripts: a tokenizer, a generator, and settings.

from sampling.pipeline import Pipeline

pipeline = Pipeline.from_pretrained("output/alitok_b")         # or a hub id, or a file and a configuration
images = pipeline.generate([207, 250, 33])                     # (3, 3, 256, 256) in [0, 1]
for images in pipeline.stream([207], every=17):                # the same image while its codes are drawn
    ...
codes = pipeline.tokenizer.encode(images)                      # (B, 273)
images = pipeline.tokenizer.decode(codes)
images = pipeline.complete(images, keep=150, class_ids=[207])  # their first 150 codes stay, the others are drawn
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modeling.build import cast_parameters, code_layout, load_generator, load_tokenizer
from modeling.configs import read_models_config
from modeling.interfaces import GENERATORS, Generator, Tokenizer
from modeling.layers.precision import PRECISIONS, autocast, default_precision, full_float32
from sampling.completion import keep_codes, one_row_each
from sampling.decoding import DECODERS, DecoderSettings, decoder_settings, fill_undrawn, make_decoder
from sampling.noise import image_noise
from sampling.pretrained_folder import find_tokenizer
from utils.compiling import compile_or_eager
from utils.device import use_cpu
from utils.errors import UserError
from utils.pretrained import config_file, local_folder
from utils.weights import weights_file

DECODED_TOGETHER = 125  # images: a convolutional decoder needs about 0.1 GB for each


def require_class(class_id: int, num_classes: int, source: str = "class") -> None:
    """Raise UserError unless the class exists."""
    if not 0 <= class_id < num_classes:
        raise UserError(f"{source} {class_id} is out of range, the classes are 0 to {num_classes - 1}")


class Pipeline:
    """Draws codes with the generator and turns them into images with the tokenizer's decoder.

    Image number i of a seed is the same in any batch, on any process, up to rounding in matrix products, which in bf16
    changes many images (docs/sampling.md).
    Modifies the models in place for inference; do not train them afterwards.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        generator: Generator,
        settings: DecoderSettings,
        *,
        seed: int = 0,
        precision: str | None = None,
        compile: bool | None = None,
        batch_size: int = 8,
    ):
        """tokenizer and generator: for inference, on one device.

        precision: fp32 or bf16, by default bf16 only on a GPU. compile: by default only on a GPU (on a CPU the
        first batch waits a minute for the compiler). batch_size: the largest number of images at a time.
        Raises UserError if the models do not fit together or a value is unknown.
        """
        if tokenizer.layout != generator.layout:
            raise UserError(f"the generator draws {generator.layout}, the tokenizer decodes {tokenizer.layout}")
        self.tokenizer = tokenizer
        self.generator = generator
        self.seed = seed
        self.batch_size = batch_size
        self.device = next(generator.parameters()).device
        self.precision = precision or default_precision(self.device)
        if self.precision not in PRECISIONS:
            raise UserError(f"precision is '{self.precision}'; choose {' or '.join(PRECISIONS)}")
        on_gpu = self.device.type == "cuda"
        compile = compile_or_eager(compile, self.device)
        if compile and on_gpu:
            for trunk in tokenizer.trunks:
                trunk.compile()
        if self.precision == "bf16":
            cast_parameters(generator, torch.bfloat16)
        decoder_class = DECODERS.part_class(generator.decoding)
        self._forward = decoder_class.prepare(generator, settings, batch_size, compile)
        self._fixed_rows = batch_size if on_gpu or compile else None
        self._use_settings(settings)

    def _use_settings(self, settings: DecoderSettings) -> None:
        self.settings = settings
        self.decoder = make_decoder(self.generator, settings, fixed_rows=self._fixed_rows, forward=self._forward)

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        tokenizer: str | Path | None = None,
        config: str | Path | None = None,
        device: str | torch.device | None = None,
        seed: int | None = None,
        settings: dict[str, Any] | None = None,
        **options: Any,
    ) -> "Pipeline":
        """Load from a folder that a training or `save_pretrained` wrote, a hub id, or a weights file.

        source: folder or hub id with config.yaml and model.safetensors, a checkpoint of a training, or only the
        generator's weights, which need `config`. tokenizer: its weights; by default tokenizer.safetensors beside
        the generator's, else what the configuration names. settings: changes to the configuration's settings of
        sampling. options: see the constructor. Raises UserError.
        """
        device = device or ("cpu" if use_cpu() else "cuda")
        weights = Path(source)
        if not weights.is_file():
            folder = local_folder(source)
            weights, config = weights_file(folder), config or config_file(folder)
        if config is None:
            raise UserError(f"{source} holds only weights: name their configuration, e.g. configs/alitok_b.yaml")
        models = read_models_config(config)
        decoding = GENERATORS.part_class(models.generator.name).decoding
        how = decoder_settings(models.generator, decoding, **(settings or {}))
        layout = code_layout(models.vq_model)
        return cls(
            load_tokenizer(models.vq_model, tokenizer or find_tokenizer(weights.parent, config), device),
            load_generator(models.generator, layout, weights, device),
            how,
            seed=models.generator.seed if seed is None else seed,
            **options,
        )

    def _noise(self, class_ids: Sequence[int], image_ids: Sequence[int] | None, seed: int | None) -> Tensor:
        for class_id in class_ids:
            require_class(class_id, self.generator.num_classes)
        image_ids = range(len(class_ids)) if image_ids is None else image_ids
        if len(image_ids) != len(class_ids):
            raise ValueError(f"{len(image_ids)} image ids for {len(class_ids)} classes")
        return image_noise(self.seed if seed is None else seed, image_ids, self.decoder.noise_shape)

    @torch.no_grad()
    @full_float32()
    def decode(self, codes: Tensor) -> Tensor:
        """codes (n, T) -> images (n, 3, H, W) in [0, 1], in the pipeline's precision. Raises UserError for NaN."""
        with autocast(self.device, self.precision):
            images = torch.cat([self.tokenizer.decode(part).float() for part in codes.split(DECODED_TOGETHER)])
        if not images.isfinite().all():
            raise UserError(f"the tokenizer decodes to NaN or infinity in {self.precision}: its weights are damaged")
        return images

    def generate_codes(
        self,
        class_ids: Sequence[int],
        image_ids: Sequence[int] | None = None,
        seed: int | None = None,
        kept: Tensor | None = None,
    ) -> Tensor:
        """One batch of codes (n, T) int64; arguments as for `generate`."""
        noise = self._noise(class_ids, image_ids, seed)
        return self.decoder(torch.tensor(class_ids, device=self.device), noise, kept)

    def generate(
        self,
        class_ids: Sequence[int],
        image_ids: Sequence[int] | None = None,
        seed: int | None = None,
        kept: Tensor | None = None,
    ) -> Tensor:
        """Images of the classes, `batch_size` at a time: (n, 3, H, W) in [0, 1].

        image_ids: numbers of the images, which decide their noise; by default 0 .. n - 1. kept: codes that stay, see
        `keep_codes`. Raises UserError for classes out of range.
        """
        image_ids = range(len(class_ids)) if image_ids is None else image_ids
        kept, images = one_row_each(kept, len(class_ids)), []
        for start in range(0, len(class_ids), self.batch_size):
            part = slice(start, start + self.batch_size)
            codes = self.generate_codes(class_ids[part], image_ids[part], seed, None if kept is None else kept[part])
            images.append(self.decode(codes))
        return torch.cat(images)

    def complete(
        self,
        images_or_codes: Tensor,
        keep: int | Sequence[int],
        class_ids: Sequence[int],
        image_ids: Sequence[int] | None = None,
        seed: int | None = None,
    ) -> Tensor:
        """Keep some codes of each image and draw the others: images (n, 3, H, W) in [0, 1].

        images_or_codes, keep: see `keep_codes`; one image serves for all classes. Others: see `generate`. A drawn
        image's first codes, with its seed, number and class, give it back if codes are drawn one after another.
        """
        return self.generate(class_ids, image_ids, seed, self.keep_codes(images_or_codes, keep))

    @torch.no_grad()
    @full_float32()
    def keep_codes(self, images_or_codes: Tensor, keep: int | Sequence[int]) -> Tensor:
        """The codes that a completion keeps and -1 elsewhere, (n, T) int64, for `generate` and `stream`.

        images_or_codes: images (n, 3, H, W) in [0, 1] of the tokenizer's size, or codes (n, T) int64.
        keep: how many of the codes that are drawn first (docs/sampling.md), or their places: a masked generator can
        keep codes anywhere. Raises UserError for images and numbers that do not fit.
        """
        codes, size = images_or_codes.to(self.device), self.tokenizer.image_size
        if codes.is_floating_point():
            if codes.shape[1:] != (3, size, size):
                raise UserError(f"images to complete have the shape {tuple(codes.shape)}, not (n, 3, {size}, {size})")
            codes = self.tokenizer.encode(codes)
        return keep_codes(codes, keep, self.decoder.order)

    def stream_codes(
        self,
        class_ids: Sequence[int],
        image_ids: Sequence[int] | None = None,
        seed: int | None = None,
        kept: Tensor | None = None,
    ) -> Iterator[Tensor]:
        """The codes of one batch after each stage of decoding, (n, T) int64, -1 where none is drawn yet.

        kept: codes that stay, see `keep_codes`; the stages are then those of the others.
        """
        noise, kept = self._noise(class_ids, image_ids, seed), one_row_each(kept, len(class_ids))
        yield from self.decoder.stream(torch.tensor(class_ids, device=self.device), noise, kept)

    def stream(
        self,
        class_ids: Sequence[int],
        every: int = 16,
        image_ids: Sequence[int] | None = None,
        seed: int | None = None,
        kept: Tensor | None = None,
    ) -> Iterator[Tensor]:
        """Images of one batch after each `every` stages of decoding (codes, if they come one by one) and at the
        end, (n, 3, H, W) in [0, 1]. Codes that are not drawn yet repeat their neighbours.

        The other arguments are those of `stream_codes`.
        """
        stage = 0
        for stage, codes in enumerate(self.stream_codes(class_ids, image_ids, seed, kept), 1):
            if stage % every == 0:
                yield self.decode(fill_undrawn(codes))
        if stage % every:
            yield self.decode(codes)

    def with_settings(self, **changes: Any) -> "Pipeline":
        """The same models with other settings, e.g. guidance_scale=4.0. Shares memory."""
        other = copy.copy(self)
        other._use_settings(replace(self.settings, **changes))
        return other
