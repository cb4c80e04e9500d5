"""A tokenizer and a generator of another kind join by registering, with no edit elsewhere.

`line`: a 1-D tokenizer that learns to predict the codes of another, frozen tokenizer, without pixels.
`toy_masked`: a generator that draws several codes at a time, and whose loss depends on the training's progress.
"""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor, nn

from dataset.token_cache.reader import open_token_cache
from modeling.build import load_tokenizer
from modeling.configs import read_tokenizer_config
from modeling.frozen.small_classifier import Classifier, save_classifier
from modeling.interfaces import (
    GENERATORS,
    TOKENIZERS,
    CodeLayout,
    GeneratorLoss,
    LossTerm,
    Progress,
    TokenizerOutput,
)
from modeling.layers.quantizer import VectorQuantizer
from sampling.decoding import DECODERS
from sampling.noise import draw
from sampling.pipeline import Pipeline
from tests.support import toy
from tests.support.launch import run_here
from tests.support.resuming import assert_equal_checkpoints
from train_generator.config import ARConfig
from train_generator.trainer import GeneratorTrainer
from training.checkpoint_files import list_checkpoints
from training.logging import read_log
from utils.config import load_config, option
from utils.weights import export_weights, load_strict

NUM_CODES, CODEBOOK_SIZE, WIDTH = 6, 16, 24


@dataclass
class LineConfig:
    name: str = option("line", "registered tokenizer")
    image_size: int = option(toy.IMAGE_SIZE, "side of the images in pixels", min=1)
    teacher_config: str = option("", "configuration of the tokenizer whose codes are predicted")
    teacher_checkpoint: str = option("", "its weights")

    @property
    def layout(self) -> CodeLayout:
        return CodeLayout(CODEBOOK_SIZE, NUM_CODES)


@TOKENIZERS.register("line", LineConfig)
class LineTokenizer(nn.Module):
    optional_keys = ("quantize.embed_prob",)
    variants = {}
    trainable = True
    code_keys = ("encoder.", "quantize.")
    trunks = ()

    def __init__(self, config: LineConfig):
        super().__init__()
        self.config, self.image_size, self.layout = config, config.image_size, config.layout
        self.teacher = load_tokenizer(read_tokenizer_config(config.teacher_config), config.teacher_checkpoint)
        self.encoder = nn.Linear(3 * config.image_size**2, NUM_CODES * 4)
        self.quantize = VectorQuantizer(CODEBOOK_SIZE, 4)
        self.decoder = nn.Linear(NUM_CODES * 4, self.teacher.layout.num_codes * self.teacher.layout.codebook_size)

    def _latents(self, images: Tensor) -> Tensor:
        return self.encoder(images.flatten(1)).view(len(images), 4, 1, NUM_CODES)

    def _logits(self, quantized: Tensor) -> Tensor:
        return self.decoder(quantized.flatten(1)).unflatten(1, (self.teacher.layout.num_codes, -1))

    def forward(self, images: Tensor) -> TokenizerOutput:
        quantized, quantizer_loss, _ = self.quantize(self._latents(images))
        proxy = F.cross_entropy(self._logits(quantized).flatten(0, 1), self.teacher.encode(images).flatten())
        return TokenizerOutput({"proxy": LossTerm(proxy, 1.0), "quantizer": LossTerm(quantizer_loss, 0.5)})

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        return self.quantize.assign(self._latents(images))

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        return self.teacher.decode(self._logits(self.quantize.lookup(codes)).argmax(-1))

    def load_earlier_stage(self, state: dict[str, Tensor], source: Any) -> None:
        load_strict(self, state, source, optional=self.optional_keys)

    def decays(self, name: str, parameter: Tensor) -> bool:
        return True

    def begin_step(self, phase: Any) -> None:
        self.quantize.clustering = phase.clustering
        self.quantize.discard_collected()

    def before_update(self) -> None:
        self.quantize.update_codebook()

    def log_values(self) -> dict[str, Tensor]:
        return {}

    def replicated_state(self) -> None:
        return None


@dataclass
class MaskedConfig:
    name: str = option("toy_masked", "registered generator")
    condition_num_classes: int = option(toy.NUM_CLASSES, "number of classes", min=1)
    rounds: int = option(3, "stages of decoding", min=1)
    seed: int = option(0, "seed of the sampling noise")


@GENERATORS.register("toy_masked", MaskedConfig)
class MaskedGenerator(nn.Module):
    decoding = "toy_masked"
    loss_unit = "nats per masked code"
    loss_noise = NUM_CODES
    float32_parts = ()
    class_tables = ("classes.weight",)

    def __init__(self, config: MaskedConfig, layout: CodeLayout):
        super().__init__()
        self.config, self.layout, self.num_classes = config, layout, config.condition_num_classes
        self.codes = nn.Embedding(layout.codebook_size + 1, WIDTH)  # the last one is the mask
        self.classes = nn.Embedding(self.num_classes + 1, WIDTH)
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(WIDTH * layout.num_codes, 64), nn.GELU())])
        self.head = nn.Linear(64, layout.num_codes * layout.codebook_size)

    def forward(self, codes: Tensor, class_ids: Tensor) -> Tensor:
        x = (self.codes(codes) + self.classes(class_ids)[:, None]).flatten(1)
        for block in self.blocks:
            x = block(x)
        return self.head(x).unflatten(1, (self.layout.num_codes, -1))

    def loss(self, codes: Tensor, class_ids: Tensor, progress: Progress | None, noise: Tensor) -> GeneratorLoss:
        ratio = 0.5 if progress is None else 1 - 0.5 * progress.step / progress.total_steps
        masked = (noise < ratio) | (noise == noise.amin(1, keepdim=True))
        logits = self(codes.masked_fill(masked, self.layout.codebook_size), class_ids)[masked].float()
        hits = torch.full(codes.shape, torch.nan)
        hits[masked] = (logits.argmax(-1) == codes[masked]).float()
        log = {"masked_share": masked.float().mean()}
        return GeneratorLoss(F.cross_entropy(logits, codes[masked]), hits.nanmean(), hits, log)

    def decays(self, name: str, parameter: Tensor) -> bool:
        return parameter.ndim == 2

    def forward_flops(self) -> int:
        return 2 * sum(p.numel() for p in self.parameters())


@dataclass(frozen=True)
class MaskedSettings:
    rounds: int = 3

    @classmethod
    def from_config(cls, generator: MaskedConfig, **changes: Any) -> "MaskedSettings":
        return cls(**{"rounds": generator.rounds} | changes)


@DECODERS.register("toy_masked", MaskedSettings)
class MaskedDecoder:
    """Draws an equal share of the codes in each round, in the order of the positions."""

    def __init__(self, generator: MaskedGenerator, settings: MaskedSettings, *, fixed_rows=None, forward=None):
        self.generator, self.settings, self.forward = generator, settings, forward or generator
        self.noise_shape = (settings.rounds, NUM_CODES)
        self.order = torch.arange(NUM_CODES)

    @staticmethod
    def prepare(generator: MaskedGenerator, settings: MaskedSettings, batch_size: int, compile: bool) -> Callable:
        return generator

    @staticmethod
    def bytes_per_image(generator: MaskedGenerator, settings: MaskedSettings, bytes_per_number: int) -> int:
        return NUM_CODES * generator.layout.codebook_size * bytes_per_number

    @torch.no_grad()
    def stream(self, class_ids: Tensor, noise: Tensor, kept: Tensor | None = None) -> Iterator[Tensor]:
        codes = torch.full((len(class_ids), NUM_CODES), -1, device=class_ids.device)
        for round, places in enumerate(torch.arange(NUM_CODES).chunk(self.settings.rounds)):
            logits = self.forward(codes.masked_fill(codes < 0, self.generator.layout.codebook_size), class_ids)
            drawn = draw(logits.flatten(0, 1), noise[:, round].flatten().to(logits.device)).view_as(codes)
            codes[:, places] = drawn[:, places]
            if kept is not None:
                codes = torch.where(kept < 0, codes, kept)
            yield codes.clone()

    def __call__(self, class_ids: Tensor, noise: Tensor, kept: Tensor | None = None) -> Tensor:
        *_, codes = self.stream(class_ids, noise, kept)
        return codes


@dataclass
class Work:
    folder: Path
    images: Path
    tokenizer: Path
    cache: Path
    generator: Path


def write_yaml(path: Path, content: dict) -> Path:
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Iterator[Work]:
    """Every stage with the ordinary scripts, on images that show their classes."""
    folder = tmp_path_factory.mktemp("families")
    with pytest.MonkeyPatch.context() as monkeypatch:
        images = toy.write_images(folder / "images")
        teacher = export_weights(folder / "teacher", toy.tokenizer(init_std=0.3).state_dict())[1]
        vq_model = {
            "name": "line",
            "teacher_config": str(toy.write_tokenizer_config(folder / "teacher.yaml", 2)),
            "teacher_checkpoint": str(teacher),
        }
        common = {"mixed_precision": "no", "enable_wandb": False, "per_gpu_batch_size": 8}
        stage = {
            "experiment": {"output_dir": str(folder / "tokenizer"), "log_every": 5, "eval_every": 20},
            "model": {"vq_model": vq_model},
            "dataset": {"params": {"data_path": str(images), "num_workers_per_gpu": 0}},
            "lr_scheduler": {"params": {"warmup_steps": 2}},
            "training": common,
            "phases": [{"name": "proxy", "steps": 40, "learning_rate": 1e-2, "clustering": True}],
        }
        run_here(monkeypatch, "train_tokenizer/train_tokenizer.py", f"config={write_yaml(folder / 't.yaml', stage)}")
        weights = folder / "tokenizer" / "model.safetensors"
        encode = ("--img_size", toy.IMAGE_SIZE, "--num_workers", 0, "--data_path", images)
        encode += ("--tokenizer_config", folder / "tokenizer" / "config.yaml", "--tokenizer_checkpoint", weights)
        run_here(monkeypatch, "pretokenization.py", *encode, "--cached_path", folder / "cache")
        ar = {
            "experiment": {
                "output_dir": str(folder / "generator"),
                "log_every": 10,
                "eval_every": 20,
                "generate_every": 20,
                "tokenizer_checkpoint": str(weights),
            },
            "model": {"vq_model": vq_model, "generator": {"name": "toy_masked"}},
            "dataset": {
                "params": {
                    "pretokenization": str(folder / "cache"),
                    "pretokenization_val": str(folder / "cache"),
                    "num_workers_per_gpu": 0,
                }
            },
            "optimizer": {"params": {"learning_rate": 1e-2}},
            "lr_scheduler": {"params": {"warmup_steps": 2}},
            "training": common | {"max_train_steps": 60},
            "sampling": {"num_samples": 12, "batch_size": 5},
        }
        run_here(monkeypatch, "train_ar.py", f"config={write_yaml(folder / 'ar.yaml', ar)}")
        yield Work(folder, images, folder / "tokenizer", folder / "cache", folder / "generator")


def test_the_tokenizer_trains_on_proxy_codes(work):
    rows = read_log(work.tokenizer)
    proxy = [row["proxy"] for row in rows if "proxy" in row]
    assert proxy[-1] < proxy[0] - 0.3
    assert not any("reconstruction" in row for row in rows)
    assert "val_psnr" in rows[-1]
    assert list((work.tokenizer / "previews").glob("*.png"))


def test_its_codes_are_cached(work):
    cache = open_token_cache(work.cache)
    assert (len(cache), cache.num_codes, cache.codebook_size) == (48, NUM_CODES, CODEBOOK_SIZE)
    assert len({tuple(cache.codes(i, 0)) for i in range(48)}) > 4


def test_the_generator_trains_with_progress_previews_and_validation(work):
    rows = read_log(work.generator)
    validation = [row["val_loss"] for row in rows if "val_loss" in row]
    assert validation[-1] < validation[0]
    masked = [row["masked_share"] for row in rows if "masked_share" in row]
    assert masked[0] > 0.9
    assert masked[-1] < 0.7
    assert len(list((work.generator / "previews").glob("*.png"))) == 3


def test_samples_do_not_depend_on_the_batch(work, monkeypatch):
    pixels = []
    for batch_size in (5, 12):
        output = work.folder / f"samples{batch_size}"
        run_here(
            monkeypatch,
            "sample_imagenet.py",
            f"config={work.folder / 'ar.yaml'}",
            f"experiment.output_dir={output}",
            f"experiment.generator_checkpoint={work.generator / 'model.safetensors'}",
            f"sampling.batch_size={batch_size}",
        )
        with np.load(f"{output}.npz", allow_pickle=False) as arrays:
            pixels.append(arrays["arr_0"].astype(int))
    assert np.abs(pixels[0] - pixels[1]).max() <= 1
    assert len(np.unique(pixels[0].reshape(12, -1), axis=0)) > 3


def test_the_pipeline_generates_and_streams(work, tmp_path, monkeypatch):
    """From a training's folder that was moved, in another working directory: it holds its tokenizer."""
    shutil.copytree(work.generator, tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    pipeline = Pipeline.from_pretrained("moved")
    images = pipeline.generate([0, 1, 2])
    assert images.shape == (3, 3, toy.IMAGE_SIZE, toy.IMAGE_SIZE)
    streamed = list(pipeline.stream([0, 1, 2], every=1))
    assert len(streamed) == 3
    assert torch.equal(streamed[-1], images)
    assert not torch.equal(streamed[0], images)
    assert len(list(pipeline.with_settings(rounds=2).stream([0], every=1))) == 2
    completed = pipeline.generate_codes([0, 1, 2], seed=1, kept=pipeline.keep_codes(images, 4))
    assert torch.equal(completed[:, :4], pipeline.tokenizer.encode(images)[:, :4])


def test_evaluation_runs(work, monkeypatch, capfd):
    tokenizer = ("--tokenizer_config", work.tokenizer / "config.yaml")
    tokenizer += ("--tokenizer_checkpoint", work.tokenizer / "model.safetensors")
    data = ("--data_path", work.images)
    run_here(monkeypatch, "evaluation/evaluate_tokenizer.py", *data, *tokenizer, "--metrics", "psnr,ssim")
    assert "psnr: " in capfd.readouterr().out
    classifier, samples = work.folder / "classifier.safetensors", work.folder / "noise.npz"
    save_classifier(classifier, Classifier(toy.NUM_CLASSES), toy.IMAGE_SIZE, 0.5)
    np.savez(samples, arr_0=np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3), dtype=np.uint8))
    evaluator = "guided-diffusion/evaluations/evaluator.py"
    run_here(monkeypatch, evaluator, samples, samples, "--classifier", classifier)
    assert "Precision: 1.0" in capfd.readouterr().out


def test_its_training_resumes_bit_for_bit(work, tmp_path):
    """The loss's random numbers are a function of seed and sample."""

    def build(name: str, *overrides: str) -> GeneratorTrainer:
        arguments = [f"config={work.folder / 'ar.yaml'}", f"experiment.output_dir={tmp_path / name}"]
        arguments += [
            "training.max_train_steps=8",
            "experiment.generate_every=0",
            "experiment.save_every=3",
            *overrides,
        ]
        return GeneratorTrainer(load_config(ARConfig, "", arguments))

    whole = build("whole", "experiment.keep_checkpoints=5")
    whole.run()
    early, *_, last = list_checkpoints(whole.output_dir)
    shutil.copytree(early, tmp_path / "resumed" / "checkpoints" / early.name)
    resumed = build("resumed", "experiment.resume=auto")
    assert resumed.state.step == 3
    resumed.run()
    assert_equal_checkpoints(list_checkpoints(resumed.output_dir)[-1], last)


@pytest.mark.parametrize("generator", ["alitok", "maskgit"])
def test_other_generators_train_on_the_same_codes(work, tmp_path, generator):
    """AliTok's, with a 1-D rotary table, and a masked one."""
    sizes = [f"model.generator.{key}" for key in ("hidden_size=16", "num_hidden_layers=1", "num_attention_heads=2")]
    ar = yaml.safe_load((work.folder / "ar.yaml").read_text())
    ar["model"]["generator"] = {"name": generator, "condition_num_classes": toy.NUM_CLASSES}
    config = write_yaml(tmp_path / "ar.yaml", ar)
    arguments = [f"config={config}", f"experiment.output_dir={tmp_path / 'out'}", "training.max_train_steps=30", *sizes]
    trainer = GeneratorTrainer(load_config(ARConfig, "", arguments))
    if generator == "alitok":
        assert trainer.generator.rope.shape == (1 + NUM_CODES, 2, 8)
    trainer.run()
    losses = [row["val_loss"] for row in read_log(tmp_path / "out") if "val_loss" in row]
    assert losses[-1] < losses[0]
    assert len(Pipeline.from_pretrained(tmp_path / "out").generate([0, 1])) == 2
