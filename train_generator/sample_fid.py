"""FID of samples (gFID) during a training, with and without guidance."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object

from evaluation.extractors import ClassifierExtractor, InceptionExtractor, inception_weights
from evaluation.features import Extractor
from evaluation.fid import RunningStatistics, frechet_distance
from evaluation.reference import Reference
from modeling.interfaces import Generator, Tokenizer
from sampling.decoding import DecoderSettings, decoder_settings, make_decoder
from sampling.noise import image_noise
from training.logging import Logger, read_log
from utils.config import option
from utils.errors import UserError, first_line, warn
from utils.images import to_bytes

GUIDED, UNGUIDED = "gfid", "gfid_unguided"  # names in the log
FAULTS = (UserError, RuntimeError, OSError, ValueError)


@dataclass
class SampleFidSettings:
    """Part of `training`."""

    eval_fid_every: int = option(0, "steps between FIDs of samples, gfid in the log; 0: none", min=0)
    eval_fid_samples: int = option(5000, "images of each FID, drawn by all processes together", min=2)
    eval_fid_reference: str | None = option(None, "reference file of the evaluator", path="read")
    eval_fid_classifier: str | None = option(None, "features of this classifier in place of Inception's", path="read")
    eval_fid_inception: str | None = option(
        None, "Inception weights; null: as the evaluator finds them, but nothing is downloaded", path="read"
    )
    eval_fid_batch_size: int = option(50, "images per process and batch", min=1)


class SampleFid:
    """Draws the same images at each evaluation: image i has class i mod the number of classes and noise i.

    They are the first images of sample_imagenet.py, up to its precision. A fault is a warning, never the end of
    the training; with sharded weights a fault while drawing ends it, as the other ranks would wait for its part.
    """

    def __init__(
        self,
        settings: SampleFidSettings,
        generator_config: Any,
        generator: Generator,
        load_tokenizer: Callable[[], Tokenizer],
        accelerator: Accelerator,
        sharded: bool,
    ):
        """load_tokenizer: called on each rank if FID is on. All ranks make this object together."""
        self.settings, self.accelerator, self.sharded = settings, accelerator, sharded
        self.seed = generator_config.seed
        self.every = settings.eval_fid_every
        if not self.every:
            return
        problem = None
        try:
            if not settings.eval_fid_reference:
                raise UserError("training.eval_fid_reference is not set")
            reference = Reference(settings.eval_fid_reference)
            self.extractor = self._load_extractor()
            self.tokenizer = load_tokenizer()
            self.samplings = self._samplings(decoder_settings(generator_config, generator.decoding))
        except FAULTS as error:
            problem = first_line(error)
        if self._any_rank(problem):
            self.every = 0
            return
        try:
            self.statistics = reference.pool_statistics(self.extractor, settings.eval_fid_batch_size)
        except UserError as error:  # on all ranks
            self._any_rank(first_line(error))
            self.every = 0
            return
        accelerator.print(
            f"gFID of {settings.eval_fid_samples} samples every {self.every} steps, features: {self.extractor.name};"
            f" reference {reference.describe()}"
        )
        if settings.eval_fid_samples < self.extractor.num_features:
            warn(
                f"warning: training.eval_fid_samples is {settings.eval_fid_samples} for {self.extractor.num_features}"
                " features: their covariance is singular, gFID far too high"
            )

    def _load_extractor(self) -> Extractor:
        """Nothing is downloaded: the ranks of a machine would have to wait for the one that does, and it may fail."""
        settings, device = self.settings, self.accelerator.device
        if settings.eval_fid_classifier:
            return ClassifierExtractor(settings.eval_fid_classifier, device)
        weights = inception_weights(settings.eval_fid_inception, download=False)
        if weights is None:
            raise UserError("Inception's weights are not found: name them with training.eval_fid_inception")
        return InceptionExtractor(weights, device)

    @staticmethod
    def _samplings(guided: DecoderSettings) -> dict[str, DecoderSettings]:
        """Name in the log -> settings; without guidance in the configuration there is one entry."""
        unguided = replace(guided, guidance_scale=0.0)
        return {UNGUIDED: unguided} if guided.guidance_scale == 0 else {GUIDED: guided, UNGUIDED: unguided}

    def _any_rank(self, problem: str | None) -> bool:
        """Whether any rank has a problem; warns of the first one. All ranks call it."""
        problems = [found for found in gather_object([problem]) if found]
        if problems:
            warn(f"warning: no gFID ({problems[0]})")
        return bool(problems)

    def due(self, step: int, total_steps: int) -> bool:
        return self.every > 0 and step > 0 and (step % self.every == 0 or step == total_steps)

    def catch_up(self, model: Generator, step: int, total_steps: int, logger: Logger) -> None:
        """Evaluate at the start of a resumed training what a kill after the checkpoint left out."""
        if not self.due(step, total_steps):
            return
        logged = logger.enabled and any(row["step"] == step and UNGUIDED in row for row in read_log(logger.path.parent))
        (logged,) = broadcast_object_list([logged])
        if not logged:
            self.evaluate(model, step, logger)

    def evaluate(self, model: Generator, step: int, logger: Logger) -> None:
        """Log gFID of the model. All ranks call it."""
        values = {}
        for name, settings in self.samplings.items():
            device = self.accelerator.device
            mine = RunningStatistics(self.extractor.num_features, device, self.statistics.mu.to(device))
            problem = None
            try:
                self._draw(model, settings, mine)
            except FAULTS as error:  # for example out of memory
                if self.sharded:
                    raise
                problem = first_line(error)
            if self._any_rank(problem and f"{problem}, at step {step}"):
                continue
            total = mine.reduced(self.accelerator.reduce)
            if self.accelerator.is_main_process:
                try:
                    samples = total.statistics()
                    values[name] = frechet_distance(self.statistics.to(device), samples)
                except FAULTS as error:
                    warn(f"warning: no {name} at step {step} ({first_line(error)})")
        if values:
            logger.log(step, values)

    @torch.no_grad()
    @torch.compiler.set_stance("force_eager")  # compiled blocks would be compiled again for the shapes of decoding
    def _draw(self, model: Generator, settings: DecoderSettings, statistics: RunningStatistics) -> None:
        """Add the features of this rank's images."""
        model.eval()
        count, state = self.settings.eval_fid_samples, self.accelerator
        size, world = self.settings.eval_fid_batch_size, state.num_processes
        decoder = make_decoder(model, settings)
        for start in range(0, -(-count // world), size):  # equally often on each rank: all gather sharded weights
            places = range(start, min(start + size, -(-count // world)))
            ids = [place * world + state.process_index for place in places]
            known = [min(i, count - 1) for i in ids]
            class_ids = torch.tensor([i % model.num_classes for i in known], device=state.device)
            with state.autocast():
                codes = decoder(class_ids, image_noise(self.seed, known, decoder.noise_shape))
                images = self.tokenizer.decode(codes)
            if not images.isfinite().all():
                raise UserError("samples hold NaN or infinity")
            if used := sum(i < count for i in ids):  # some ranks have one image less
                statistics.add(self.extractor(to_bytes(images[:used])).pool)
