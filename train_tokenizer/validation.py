"""Validate a tokenizer during its training."""

import sys

from accelerate import Accelerator

from dataset.images import ImageList
from evaluation.evaluate_tokenizer import TokenizerEvaluation
from evaluation.extractors import InceptionExtractor, inception_weights
from modeling.frozen.lpips import LPIPS, VGG16
from modeling.interfaces import Tokenizer
from train_tokenizer.config import TokenizerConfig
from train_tokenizer.loss import TokenizerLoss
from training.logging import Logger
from utils.pretrained import find_weights
from utils.progress import tqdm


class Validation:
    """PSNR, SSIM, codebook usage, and LPIPS and rFID if their weights are found; nothing is downloaded for them."""

    def __init__(
        self, config: TokenizerConfig, images: ImageList, image_size: int, loss: TokenizerLoss, accelerator: Accelerator
    ):
        """loss: its LPIPS network is used if there is one."""
        self.accelerator = accelerator
        self.min_usage = config.validation.min_codebook_usage
        device, lpips = accelerator.device, loss.lpips
        if lpips is None and config.losses.lpips_network == "vgg16":
            vgg = find_weights("VGG16", VGG16.url, "losses.lpips_checkpoint", config.losses.lpips_checkpoint)
            lpips = LPIPS(vgg).to(device) if vgg else None
        weights = inception_weights(config.validation.inception_checkpoint, download=False)
        inception = InceptionExtractor(weights, device) if weights else None
        self.found = [name for name, network in (("LPIPS", lpips), ("rFID", inception)) if network is not None]
        missing = [name for name in ("LPIPS", "rFID") if name not in self.found]
        if missing:
            accelerator.print(f"validation without {' and '.join(missing)}: no weights found (docs/training.md)")
        self.evaluation = TokenizerEvaluation(
            images,
            image_size,
            batch_size=config.training.per_gpu_batch_size,
            num_workers=config.dataset.params.num_workers_per_gpu,
            max_images=config.dataset.params.max_eval_images,
            resize=config.dataset.params.resize,
            lpips=lpips,
            inception=inception,
            autocast=accelerator.autocast,
        )

    def run(self, tokenizer: Tokenizer, step: int, logger: Logger) -> dict[str, float]:
        """Metrics of all ranks by name; the main one logs them and draws a grid of reconstructions."""
        metrics = {f"val_{name}": value for name, value in self.evaluation.metrics(tokenizer).items()}
        if self.accelerator.is_main_process:
            logger.log(step, metrics)
            logger.image(step, "reconstructions", self.evaluation.preview(tokenizer))
            if metrics.get("val_codebook_usage", 1.0) < self.min_usage:
                tqdm.write(
                    f"warning: step {step}: the validation images use only {metrics['val_codebook_usage']:.1%} of the"
                    f" codebook (validation.min_codebook_usage is {self.min_usage:.0%}): it may have collapsed. Is"
                    " clustering on in this phase, and the learning rate not too high?",
                    file=sys.stderr,
                )
        return metrics
