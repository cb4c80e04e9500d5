"""The configuration of an ablation: settings of all runs, and a list of overrides for each variant."""

from dataclasses import dataclass, field

from omegaconf import MISSING

from utils.errors import UserError, nearest

# Names in the folder of a run; probes and samplings add theirs.
RUN_NAMES = ("ar", "cache_train", "cache_val", "tokenizer", "tokenizer_stage1", "tokenizer_stage2")


@dataclass
class Files:
    """Configuration files of the three trainings."""

    stage1: str = MISSING  # tokenizer, stage 1
    stage2: str = MISSING  # tokenizer, stage 2
    ar: str = MISSING  # generator, also used for sampling


@dataclass
class Overrides:
    """`dotted.key=value` items for each training."""

    stage1: list[str] = field(default_factory=list)
    stage2: list[str] = field(default_factory=list)
    ar: list[str] = field(default_factory=list)


@dataclass
class Variant(Overrides):
    title: str = MISSING  # name in tables and plots
    second_stage: bool = False  # train a second decoder on the frozen codes, and decode samples with it
    codes_of: str | None = None  # use stage 1, codes and generators of this variant


@dataclass
class AblationConfig:
    output_dir: str = MISSING  # folder of all results
    data_path: str = MISSING  # folder with train/<class>/<file> and val/<class>/<file>
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])  # of weights, data order and sampling noise
    jobs: int = 1  # jobs at a time, each with a share of the cores, or a GPU of its own if there are several
    cached_images: int | None = None  # training images that generators learn from; null: all
    cached_val_images: int | None = None  # validation images for the generators' validation loss; null: all
    classifier_epochs: float = 4.0  # training length of the classifier that scores samples
    configs: Files = field(default_factory=Files)  # files that the overrides change
    overrides: Overrides = field(default_factory=Overrides)  # of all variants
    probes: dict[str, list[str]] = field(default_factory=dict)  # overrides of more generators on the same codes
    samplings: dict[str, list[str]] = field(default_factory=dict)  # overrides of each way to draw samples
    variants: dict[str, Variant] = field(default_factory=dict)  # what is compared
    only: list[str] | None = None  # variants to run; null: all


def check(config: AblationConfig) -> None:
    """Raise UserError for what would otherwise be ignored, overwritten or mixed up in silence."""
    if not config.seeds or not config.variants:
        raise UserError("the configuration lists no seeds or no variants")
    titles = [variant.title for variant in config.variants.values()]
    names = [*RUN_NAMES, *config.probes, *config.samplings]
    for what, values in (("seeds", config.seeds), ("titles", titles), ("probes and samplings", names)):
        if repeated := [value for value in values if values.count(value) > 1]:
            raise UserError(f"{what}: '{repeated[0]}' is taken already")
    for name in config.only or ():
        if name not in config.variants:
            raise UserError(f"only: there is no variant '{name}'{nearest(name, config.variants)}")
    for name, variant in config.variants.items():
        if variant.stage2 and not variant.second_stage:
            raise UserError(f"variants.{name} has overrides of stage2, but second_stage is false")
        if other := variant.codes_of:
            if other not in config.variants or config.variants[other].codes_of:
                raise UserError(f"variants.{name}.codes_of: '{other}' is not a variant with codes of its own")
            if variant.stage1 or variant.ar:
                raise UserError(f"variants.{name} uses the codes of '{other}': overrides of stage1 and ar belong there")
