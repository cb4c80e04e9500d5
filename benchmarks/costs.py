"""What the published trainings cost, by arithmetic: GPU-hours, memory, disk. Nothing here is measured.

python -m benchmarks.costs
python -m benchmarks.costs --utilisation 0.25 --peak 312   # an A100
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from dataset.crops import NUM_VIEWS
from modeling.build import build_generator, build_tokenizer, code_layout
from modeling.interfaces import CodeLayout
from train_generator.config import ARConfig
from train_tokenizer.config import TokenizerConfig
from train_tokenizer.loss import TokenizerLoss
from train_tokenizer.phases import PhaseSchedule
from utils.arguments import number
from utils.config import load_config
from utils.errors import entry_point

IMAGENET = 1_281_167  # training images
CODE_BYTES = 2  # of a code in a token cache
STATE_BYTES = 16  # of a weight while training: itself, its gradient, AdamW's two moments, float32
CHECKPOINT_BYTES = 12  # the same without the gradient
PEAK, UTILISATION = 989.0, 0.4  # TFLOP/s of an H100 in bf16 without sparsity; assumed share
FORWARD_AND_BACKWARD = 3  # operations of both over those of the forward
# Name, configuration, images of an optimizer step in the published commands.
GENERATORS = (
    ("AliTok-B", "configs/alitok_b.yaml", 2048),
    ("AliTok-L", "configs/alitok_l.yaml", 2048),
    ("AliTok-XL", "configs/alitok_xl.yaml", 2048),
    ("RAR-B", "configs/rar_b.yaml", 2048),
    ("RAR-L", "configs/rar_l.yaml", 2048),
    ("RAR-XL", "configs/rar_xl.yaml", 2048),
    ("RAR-XXL", "configs/rar_xxl.yaml", 2048),
    ("TiTok-B-64, generator", "configs/training/generator/maskgit.yaml", 2048),
)
TOKENIZERS = (
    ("AliTok tokenizer, stage 1", "configs/tokenizer_stage1.yaml", 384),
    ("AliTok tokenizer, stage 2", "configs/tokenizer_stage2.yaml", 384),
)


@dataclass(frozen=True)
class Cost:
    name: str
    parameters: int  # trained ones
    flops: float  # of the whole training
    cache_bytes: int  # of the token cache; 0: none
    batch: int  # per GPU, as in the configuration
    accumulation: int  # micro-batches that make the published step on one GPU

    def row(self, rate: float) -> str:
        """A line of the table. rate: operations per second of one GPU."""
        cache = f"{self.cache_bytes / 1e9:.1f} GB" if self.cache_bytes else "–"
        return (
            f"| {self.name} | {self.parameters / 1e6:.0f}M | {self.flops / 1e18:.0f} | {self.flops / rate / 3600:,.0f}"
            f" | {self.parameters * STATE_BYTES / 2**30:.1f} GiB | {self.parameters * CHECKPOINT_BYTES / 1e9:.1f} GB"
            f" | {cache} | {self.batch} x {self.accumulation} |"
        )


def count(run: Callable[[], Any]) -> int:
    """Operations of matrix products, convolutions and attention in `run`, on tensors without data."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run()
    return counter.get_total_flops()


def cache_size(layout: CodeLayout, ten_crop: bool) -> int:
    return IMAGENET * NUM_VIEWS[ten_crop] * layout.num_codes * CODE_BYTES


def generator_cost(name: str, file: str, images: int) -> Cost:
    """images: of an optimizer step. Codes come from a token cache."""
    config = load_config(ARConfig, "", [f"config={file}", "experiment.output_dir=unused"])
    layout = code_layout(config.model.vq_model)
    with torch.device("meta"):
        generator = build_generator(config.model.generator, layout)
    return Cost(
        name,
        sum(p.numel() for p in generator.parameters()),
        FORWARD_AND_BACKWARD * generator.forward_flops() * images * config.training.max_train_steps,
        cache_size(layout, config.dataset.params.ten_crop),
        config.training.per_gpu_batch_size,
        images // config.training.per_gpu_batch_size,
    )


def tokenizer_cost(name: str, file: str, images: int) -> Cost:
    """Without the discriminator. The networks of the losses take a forward pass for the images, and for the
    reconstructions a forward and a backward pass, which has no gradients of weights to compute."""
    overrides = ["losses.random_weights=true", "dataset.params.data_path=unused"]
    config = load_config(TokenizerConfig, "", [f"config={file}", *overrides])
    device, schedule = torch.device("meta"), PhaseSchedule(config.phases, config.lr_scheduler.params.warmup_steps)
    with device:
        tokenizer = build_tokenizer(config.model.vq_model)
        losses = TokenizerLoss(config.losses, schedule, device)
        pixels = torch.empty(1, 3, tokenizer.image_size, tokenizer.image_size)
    forward, encoder = count(lambda: tokenizer(pixels)), count(lambda: tokenizer.encode(pixels))
    frozen = config.training.freeze_encoder
    step = encoder + FORWARD_AND_BACKWARD * (forward - encoder) if frozen else FORWARD_AND_BACKWARD * forward
    logits, lpips = (1.5 * count(lambda loss=loss: loss(pixels, pixels)) for loss in (losses.logit_loss, losses.lpips))
    flops = sum(
        phase.steps * (step + logits * (phase.perceptual_weight > 0) + lpips * (phase.lpips_weight > 0))
        for phase in config.phases
    )
    trained = [p for key, p in tokenizer.named_parameters() if not (frozen and key.startswith(tokenizer.code_keys))]
    batch = config.training.per_gpu_batch_size
    return Cost(name, sum(p.numel() for p in trained), images * flops, 0, batch, images // batch)


def table(utilisation: float = UTILISATION, peak: float = PEAK) -> list[str]:
    """Lines of Markdown. peak: in TFLOP/s."""
    costs = [generator_cost(*run) for run in GENERATORS] + [tokenizer_cost(*run) for run in TOKENIZERS]
    return [
        "| training | trained weights | EFLOP | GPU-hours | state | checkpoint | token cache | one GPU: batch |",
        "|---|---|---|---|---|---|---|---|",
        *(cost.row(peak * 1e12 * utilisation) for cost in costs),
    ]


@entry_point
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    positive = number(float, above=0)
    parser.add_argument("--utilisation", type=number(float, above=0, max=1), default=UTILISATION, help="of the peak")
    parser.add_argument("--peak", type=positive, default=PEAK, help="TFLOP/s of a GPU in bf16; default: an H100's 989")
    args = parser.parse_args()
    print("\n".join(table(args.utilisation, args.peak)))


if __name__ == "__main__":
    main()
