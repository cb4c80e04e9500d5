"""Grids of samples during a training."""

import sys
from typing import Any

import torch
from accelerate import Accelerator

from modeling.build import load_tokenizer, tokenizer_fingerprint
from modeling.interfaces import Generator, Tokenizer
from sampling.decoding import decoder_settings, make_decoder
from sampling.noise import image_noise
from train_generator.config import ARConfig
from training.logging import Logger
from utils.errors import first_line
from utils.images import grid, preview_scale
from utils.pretrained import find_pretrained_weights
from utils.progress import tqdm

MAX_CLASSES = 10
IMAGES_PER_CLASS = 4


class Previews:
    """Samples of fixed classes from fixed noise, so that grids show progress."""

    def __init__(
        self, config: ARConfig, generator: Generator, accelerator: Accelerator, sharded: bool, tokenizer_sha256: str
    ):
        """sharded: every rank takes part, because sampling gathers the weights.
        tokenizer_sha256: of the tokenizer that made the token cache; empty if unknown or without a cache.

        Loads the tokenizer here, so that a missing file fails at start-up, not hours in. The tokenizer is
        also what encodes images if there is no cache. Raises UserError.
        """
        experiment = config.experiment
        checkpoint, cached = experiment.tokenizer_checkpoint, config.dataset.params.pretokenization
        self.accelerator, self.sharded = accelerator, sharded
        self.every = experiment.generate_every
        self.seed = config.model.generator.seed
        if self.every:
            self.settings: Any = decoder_settings(config.model.generator, generator.decoding)
        if self.every and cached and find_pretrained_weights(checkpoint) is None:
            accelerator.print(f"warning: no previews, because experiment.tokenizer_checkpoint {checkpoint} is missing")
            self.every = 0
        self.tokenizer: Tokenizer | None = None
        if not cached or (self.every and (accelerator.is_main_process or sharded)):
            self.tokenizer = load_tokenizer(config.model.vq_model, checkpoint, accelerator.device)
            if tokenizer_sha256 and (loaded := tokenizer_fingerprint(self.tokenizer)) != tokenizer_sha256:
                accelerator.print(
                    "warning: experiment.tokenizer_checkpoint is not the tokenizer that made the token cache:"
                    f" SHA-256 {loaded[:12]} and {tokenizer_sha256[:12]}. Its pictures are wrong, unless both have the"
                    " same codebook, as two stages of one training"
                )

    def draw_if_due(self, model: Generator, step: int, last: bool, logger: Logger) -> None:
        due = self.every > 0 and (step % self.every == 0 or last)
        if not due or not (self.accelerator.is_main_process or self.sharded):
            return
        try:
            self.draw(model, step, logger)
        except RuntimeError as error:  # for example out of memory
            if self.sharded:
                raise  # the other ranks would wait for this rank's part of the weights
            tqdm.write(f"warning: no preview at step {step} ({first_line(error)})", file=sys.stderr)

    @torch.no_grad()
    @torch.compiler.set_stance("force_eager")  # compiled blocks would be compiled again for the shapes of decoding
    def draw(self, model: Generator, step: int, logger: Logger) -> None:
        model.eval()
        classes = torch.linspace(0, model.num_classes - 1, min(MAX_CLASSES, model.num_classes)).long()
        class_ids = classes.repeat(IMAGES_PER_CLASS).to(self.accelerator.device)
        decoder = make_decoder(model, self.settings)
        with self.accelerator.autocast():
            codes = decoder(class_ids, image_noise(self.seed, range(len(class_ids)), decoder.noise_shape))
            images = self.tokenizer.decode(codes)
        if not self.accelerator.is_main_process:
            return  # the other ranks only took part in the all-gathers
        picture = grid(images, columns=len(classes), scale=preview_scale(self.tokenizer.image_size))
        logger.image(step, "samples", picture)
