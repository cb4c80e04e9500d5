"""The model card: README.md of a hub repository, made of the facts in a training's folder and of nothing else."""

from collections.abc import Iterable
from typing import Any

import yaml

from hub.facts import Facts
from modeling.interfaces import GENERATORS

PICTURE, CURVES = "samples.png", "curves.png"  # names in the repository
MAX_CLASSES = 20  # named in the card
LOADERS = {
    "pipeline": """from sampling.pipeline import Pipeline

pipeline = Pipeline.from_pretrained("{repo_id}")
images = pipeline.generate([0, 0, 0, 0])  # a class number for each image; (4, 3, {size}, {size}) in [0, 1]""",
    "generator": """from sampling.pipeline import Pipeline

pipeline = Pipeline.from_pretrained("{repo_id}", tokenizer="FILE_OR_HUB_ID")  # this repository has no tokenizer
images = pipeline.generate([0, 0, 0, 0])  # a class number for each image; (4, 3, {size}, {size}) in [0, 1]""",
    "tokenizer": """from modeling.build import load_pretrained_tokenizer

tokenizer = load_pretrained_tokenizer("{repo_id}")
codes = tokenizer.encode(images)  # images: (n, 3, {size}, {size}) in [0, 1]
images = tokenizer.decode(codes)""",
}


def model_card(facts: Facts, repo_id: str, license: str | None, has_tokenizer: bool) -> str:
    """license: an identifier of the hub such as cc-by-4.0; None leaves the field out.

    has_tokenizer: whether the repository has a generator's tokenizer beside it.
    """
    kind = "tokenizer" if facts.generator is None else "pipeline" if has_tokenizer else "generator"
    names = [facts.tokenizer.name] + ([facts.generator.name] if facts.generator else [])
    tags = ["image-tokenizer" if kind == "tokenizer" else "image-generation", *dict.fromkeys(names)]
    head = ({"license": license} if license else {}) | {"tags": tags}
    parts = [
        f"---\n{yaml.safe_dump(head, sort_keys=False)}---",
        f"# {repo_id.split('/')[-1]}",
        _summary(facts, has_tokenizer),
        f"![{'reconstructions' if kind == 'tokenizer' else 'samples'}]({PICTURE})" if facts.picture else "",
        "## Use",
        f"```python\n{LOADERS[kind].format(repo_id=repo_id, size=facts.tokenizer.image_size)}\n```",
        *_training(facts),
        *_metrics(facts),
        *_classes(facts),
        "" if license else "No licence is stated for these weights.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _summary(facts: Facts, has_tokenizer: bool) -> str:
    tokenizer, layout = facts.tokenizer, facts.tokenizer.layout
    codes = "continuous latents"
    if layout is not None:
        grid = (
            f", {layout.num_prefix} of a prefix and {layout.grid[0]}x{layout.grid[1]} of a grid" if layout.grid else ""
        )
        codes = f"{layout.num_codes} codes out of {layout.codebook_size}{grid}"
    pictures = f"images of {tokenizer.image_size}x{tokenizer.image_size} pixels"
    if facts.generator is None:
        return f"Tokenizer `{tokenizer.name}`: {pictures}, {codes}."
    beside = "with its tokenizer" if has_tokenizer else "without its tokenizer"
    classes = facts.generator.condition_num_classes
    return (
        f"Generator `{facts.generator.name}`: {pictures} in {classes} {'class' if classes == 1 else 'classes'},"
        f" {beside} (`{tokenizer.name}`: {codes})."
    )


def _table(rows: Iterable[tuple[str, Any]]) -> str:
    lines = [f"| {name} | {value} |" for name, value in rows if value is not None]
    return "\n".join(["| | |", "|---|---|", *lines])


def _training(facts: Facts) -> list[str]:
    """Data, length, hardware and command, as far as the folder tells them."""
    record, training = facts.record, facts.config.get("training") or {}
    if not record:
        return []
    processes = record["processes"]
    batch = training["per_gpu_batch_size"] * training["gradient_accumulation_steps"] * processes
    images = record["data"].get("num_images")
    parameters = record["parameters"]
    rows = (
        ("parameters", f"{parameters / 1e6:.1f}M" if parameters >= 1e5 else parameters),
        ("training images", images),
        ("steps", facts.step),
        ("images a step", batch),
        ("passes over the images", f"{facts.step * batch / images:.1f}" if facts.step and images else None),
        ("precision", "fp32" if training["mixed_precision"] == "no" else training["mixed_precision"]),
        ("moving average of the weights", "yes" if training["use_ema"] else "no"),
        ("hardware", f"{processes} x {record['device']}"),
        ("torch", record["torch"]),
    )
    curves = [f"![curves of the training]({CURVES})"] if facts.curves else []
    return ["## Training", _table(rows), f"```bash\n{record['command']}\n```", *curves]


def _metrics(facts: Facts) -> list[str]:
    """The last values on held-out images; without any, those of the training images."""
    held_out = {name: last for name, last in facts.metrics.items() if name.startswith("val_")}
    shown = held_out or {name: facts.metrics[name] for name in ("loss", "accuracy") if name in facts.metrics}
    if not shown:
        return []
    units = {}
    if facts.generator is not None:
        units = dict.fromkeys(("val_loss", "loss"), f" ({GENERATORS.part_class(facts.generator.name).loss_unit})")
    rows = ((f"`{name}`{units.get(name, '')}", f"{value:.4g} at step {step}") for name, (step, value) in shown.items())
    return ["## Metrics", "Of held-out images:" if held_out else "Of training images:", _table(rows)]


def _classes(facts: Facts) -> list[str]:
    names = facts.classes
    if not names:
        return []
    more = [f"and {len(names) - MAX_CLASSES} more: `training.json`"] if len(names) > MAX_CLASSES else []
    return ["## Classes", ", ".join([f"{n} {name}" for n, name in enumerate(names[:MAX_CLASSES])] + more)]
