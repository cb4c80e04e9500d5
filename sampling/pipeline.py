"""Images from classes, for notebooks and scripts: a tokenizer, a generator, and how they are used.

from sampling.pipeline import AliTokPipeline

pipeline = AliTokPipeline.from_pretrained("output/alitok_b")   # or a hub id, or a file and a configuration
images = pipeline.generate([207, 250, 33])                     # (3, 3, 256, 256) in [0, 1]
for images in pipeline.stream([207], every=17):                # the same image as its codes arrive
    ...
codes = pipeline.tokenizer.encode(images)                      # (B, 273)
images = pipeline.tokenizer.decode(codes)
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from omegaconf import OmegaConf
from torch import Tensor

from modeling.build import cast_parameters, check_fit, load_generator, load_tokenizer
from modeling.interfaces import Generator, Tokenizer
from modeling.layers.precision import full_float32
from sampling.autoregressive import CodeSampler, SamplingSettings, image_noise
from utils.atomic import write_atomically
from utils.config import read_models_config
from utils.errors import UserError
from utils.pretrained import local_folder

CONFIG, GENERATOR, TOKENIZER = "config.yaml", "model.safetensors", "tokenizer.safetensors"
PRECISIONS = ("bf16", "fp32")


def save_pretrained(folder: str | Path, tokenizer: Tokenizer, generator: Generator) -> None:
    """Write config.yaml, model.safetensors and tokenizer.safetensors for `AliTokPipeline.from_pretrained`.

    Such a folder can be uploaded to a hub as it is. To be called before a pipeline is made of the models.
    """
    folder = Path(folder)
    models = OmegaConf.create({"model": {"vq_model": tokenizer.config, "generator": generator.config}})
    write_atomically(folder / CONFIG, lambda f: f.write(OmegaConf.to_yaml(models).encode()))
    for name, model in ((GENERATOR, generator), (TOKENIZER, tokenizer)):
        state = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
        write_atomically(folder / name, lambda f, state=state: f.write(safetensors.torch.save(state)))


def default_precision(device: torch.device | str) -> str:
    return "bf16" if torch.device(device).type == "cuda" else "fp32"


class AliTokPipeline:
    """Draws codes with the generator and turns them into images with the tokenizer's decoder.

    Image number i of a seed is the same in any batch, on any process, up to rounding in matrix
    products. The generator is changed for speed and is of no other use from then on.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        generator: Generator,
        settings: SamplingSettings,
        *,
        seed: int = 0,
        precision: str | None = None,
        compile: bool | None = None,
        batch_size: int = 8,
    ):
        """tokenizer and generator: frozen, on one device; precision: fp32 or bf16, by default bf16
        on a GPU alone; compile: by default on a GPU alone (the CPU's first batch then waits a
        minute for the compiler); batch_size: the most images at a time.
        Raises UserError where the models do not fit each other or a value is unknown.
        """
        check_fit(tokenizer, generator)
        self.tokenizer = tokenizer
        self.generator = generator
        self.settings = settings
        self.seed = seed
        self.batch_size = batch_size
        self.device = next(generator.parameters()).device
        self.precision = precision or default_precision(self.device)
        if self.precision not in PRECISIONS:
            raise UserError(f"precision is '{precision}'; choose {' or '.join(PRECISIONS)}")
        on_gpu = self.device.type == "cuda"
        compile = on_gpu if compile is None else compile
        if self.precision == "bf16":
            cast_parameters(generator, torch.bfloat16)
        rows = 2 * batch_size if settings.scales(generator.num_codes) else batch_size
        if hasattr(generator, "optimize_for_sampling"):
            generator.optimize_for_sampling(rows, compile)
        self.sampler = CodeSampler(generator, settings, batch_size if on_gpu or compile else None)

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
    ) -> "AliTokPipeline":
        """From a folder that a training or `save_pretrained` wrote, a hub id, or a weights file.

        source: folder or hub id with config.yaml and model.safetensors, or the generator's weights
        alone, which need `config`. tokenizer: its weights; by default tokenizer.safetensors beside
        the generator's, or what the configuration names. settings: changes to the
        `SamplingSettings` of the configuration. options: see the constructor. Raises UserError.
        """
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        weights = Path(source)
        if not weights.is_file():
            folder = local_folder(source)
            weights, config = folder / GENERATOR, config or folder / CONFIG
        if config is None:
            raise UserError(f"{source} is weights alone: name their configuration, for instance configs/alitok_b.yaml")
        vq_model, generator_config, named = read_models_config(config)
        beside = weights.parent / TOKENIZER
        tokenizer = tokenizer or (beside if beside.is_file() else named)
        try:
            how = SamplingSettings.of(generator_config, **(settings or {}))
        except (ValueError, TypeError) as error:
            raise UserError(f"sampling settings: {error}") from error
        return cls(
            load_tokenizer(vq_model, tokenizer, device),
            load_generator(generator_config, weights, device),
            how,
            seed=generator_config.seed if seed is None else seed,
            **options,
        )

    def _start(self, class_ids: Sequence[int], image_ids: Sequence[int] | None, seed: int | None):
        total = self.generator.num_classes
        for class_id in class_ids:
            if not 0 <= class_id < total:
                raise UserError(f"class {class_id} is out of range, the classes are 0 to {total - 1}")
        image_ids = range(len(class_ids)) if image_ids is None else image_ids
        if len(image_ids) != len(class_ids):
            raise ValueError(f"{len(image_ids)} image ids for {len(class_ids)} classes")
        noise = image_noise(self.seed if seed is None else seed, image_ids, self.generator.num_codes)
        return torch.tensor(class_ids, device=self.device), noise

    @torch.no_grad()
    @full_float32()
    def decode(self, codes: Tensor) -> Tensor:
        """codes (n, T) -> images (n, 3, H, W) in [0, 1], in the pipeline's precision."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            return self.tokenizer.decode(codes).float()

    def generate_codes(
        self, class_ids: Sequence[int], image_ids: Sequence[int] | None = None, seed: int | None = None
    ) -> Tensor:
        """One batch of codes (n, T) int64; arguments as for `generate`."""
        return self.sampler(*self._start(class_ids, image_ids, seed))

    def generate(
        self, class_ids: Sequence[int], image_ids: Sequence[int] | None = None, seed: int | None = None
    ) -> Tensor:
        """Images of the classes, `batch_size` at a time: (n, 3, H, W) in [0, 1].

        image_ids: which images of the seed these are, by default 0 .. n - 1.
        Raises UserError for classes out of range.
        """
        image_ids = range(len(class_ids)) if image_ids is None else image_ids
        starts = range(0, len(class_ids), self.batch_size)
        parts = [slice(s, s + self.batch_size) for s in starts]
        return torch.cat([self.decode(self.generate_codes(class_ids[p], image_ids[p], seed)) for p in parts])

    def stream(
        self,
        class_ids: Sequence[int],
        every: int = 16,
        image_ids: Sequence[int] | None = None,
        seed: int | None = None,
    ) -> Iterator[Tensor]:
        """Images of one batch after each `every` codes and at the end, (n, 3, H, W) in [0, 1].

        Codes to come are stood in for by the last one: patches still to be drawn look alike.
        """
        total = self.generator.num_codes
        for drawn in self.sampler.steps(*self._start(class_ids, image_ids, seed)):
            if drawn.shape[1] % every == 0 or drawn.shape[1] == total:
                rest = drawn[:, -1:].expand(-1, total - drawn.shape[1])
                yield self.decode(self.generator.finish(torch.cat([drawn, rest], dim=1)))

    def with_settings(self, **changes: Any) -> "AliTokPipeline":
        """The same models with other `SamplingSettings`, e.g. guidance_scale=4.0. Shares memory."""
        other = object.__new__(AliTokPipeline)
        other.__dict__ |= self.__dict__
        other.settings = replace(self.settings, **changes)
        other.sampler = CodeSampler(self.generator, other.settings, self.sampler.fixed_rows)
        return other
