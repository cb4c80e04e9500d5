"""What lower precision changes in the distributions of the next code (`python -m benchmarks.sampling --kl`)."""

import argparse

import torch
from torch import Tensor

from benchmarks.report import Report
from modeling.build import build_tokenizer, to_inference
from modeling.interfaces import Generator
from sampling.autoregressive import AutoregressiveDecoder
from sampling.noise import image_noise
from sampling.pipeline import Pipeline
from sampling.settings import SamplingSettings
from train_generator.config import ARConfig
from utils.errors import UserError


def step_distributions(
    generator, class_ids: Tensor, codes: Tensor, scales: list[float], cache_precision: str | None = None
) -> tuple[Tensor, Tensor]:
    """Log-probabilities (B, T, K) of each next code along given codes, without guidance and with it."""
    classes = torch.cat([class_ids, torch.full_like(class_ids, generator.num_classes)])
    cache, codes = generator.new_cache(classes, cache_precision), torch.cat([codes, codes])
    fed = (codes[:, max(t - 1, 0) : t] for t in range(codes.shape[1]))
    logits = torch.cat([generator(last, classes, cache).double() for last in fed], dim=1)
    conditional, unconditional = logits.chunk(2)
    guided = unconditional + torch.tensor(scales, device=codes.device)[:, None] * (conditional - unconditional)
    return conditional.log_softmax(-1), guided.log_softmax(-1)


def measure_divergence(args: argparse.Namespace, config: ARConfig, exact: Generator, report: Report) -> None:
    """KL divergence of the next-code distributions, float32 against --precision and --cache_precision, along
    float32's trajectories.

    exact: the generator in float32; it is cast.
    """
    device = next(exact.parameters()).device
    if exact.decoding != "autoregressive":
        raise UserError(f"--kl measures next-code distributions; '{config.model.generator.name}' has none")
    settings = SamplingSettings.from_config(config.model.generator)
    tokenizer = to_inference(build_tokenizer(config.model.vq_model), device)
    class_ids = torch.arange(args.kl, device=device) % exact.num_classes
    codes = AutoregressiveDecoder(exact, settings)(class_ids, image_noise(0, range(args.kl), exact.layout.num_codes))
    scales = settings.scales(exact.layout.num_codes) or [1.0] * exact.layout.num_codes
    references = step_distributions(exact, class_ids, codes, scales)
    Pipeline(tokenizer, exact, settings, precision=args.precision, compile=args.compile)  # casts `exact`
    rounded = step_distributions(exact, class_ids, codes, scales, args.cache_precision)
    cache = f" with keys and values in {args.cache_precision}" if args.cache_precision else ""
    print(f"KL of {args.precision}{cache} from float32 over {args.kl} trajectories, nats per code:")
    for name, p, q in zip(("as they are", f"guided, up to {scales[-1]:g}"), references, rounded, strict=True):
        kl, entropy = (p.exp() * (p - q)).sum(-1), -(p.exp() * p).sum(-1).mean()
        mean, high, largest = float(kl.mean()), float(kl.flatten().quantile(0.99)), float(kl.max())
        report.add(
            f"{name:>20}: mean {mean:.2e}, 99th percentile {high:.2e}, largest {largest:.2e}; mean entropy"
            f" {entropy:.2f}",
            distribution=name,
            kl_mean=mean,
            kl_99=high,
            kl_largest=largest,
            entropy=float(entropy),
        )
