"""The configuration of an ablation: settings of all runs, and a list of overrides for each variant."""

from dataclasses import dataclass

from omegaconf import MISSING

from utils.config import option, section
from utils.errors import UserError, nearest

# Names in the folder of a run; probes and samplings add theirs.
RUN_NAMES = ("ar", "cache_train", "cache_val", "tokenizer", "tokenizer_stage1", "tokenizer_stage2")
TRAININGS = ("stage1", "stage2", "ar")


@dataclass
class Overrides:
    """`dotted.key=value` items for each training."""

    stage1: list[str] = option([], "for stage 1 of the tokenizer")
    stage2: list[str] = option([], "for stage 2 of the tokenizer")
    ar: list[str] = option([], "for the generator")


@dataclass
class Variant(Overrides):
    title: str = option(MISSING, "name in tables and plots")
    configs: dict[str, str] = option({}, "files in place of the shared ones")
    tokenizer: str | None = option(None, "output folder of a trained tokenizer, in place of stage 1", path="read")
    second_stage: bool = option(False, "train a second decoder on the frozen codes, and decode samples with it")
    codes_of: str | None = option(
        None, "use stage 1 and codes of this variant, and its generators unless this one has overrides or a file for ar"
    )

    @property
    def own_generator(self) -> bool:
        return bool(not self.codes_of or self.ar or "ar" in self.configs)


@dataclass
class AblationConfig:
    output_dir: str = option(MISSING, "folder of all results", path="write")
    data_path: str = option(MISSING, "folder with train/<class>/<file> and val/<class>/<file>", path="read")
    seeds: list[int] = option([0, 1, 2], "of weights, data order and sampling noise", min=0, below=2**32)
    jobs: int = option(
        1, "jobs at a time, each with a share of the cores, or a GPU of its own if there are several", min=1
    )
    workers: int = option(0, "data workers of each job that encodes or evaluates", min=0)
    cached_images: int | None = option(None, "training images that generators learn from; null: all", min=1)
    cached_val_images: int | None = option(
        None, "validation images for the generators' validation loss; null: all", min=1
    )
    classifier_epochs: float = option(4.0, "training length of the classifier that scores samples", above=0)
    classifier_data: str | None = option(
        None, "data set that the classifiers learn, for features of data without classes; null: data_path", path="read"
    )
    generators: bool = option(True, "train generators on the codes; false: compare tokenizers alone")
    configs: dict[str, str] = option({}, "files that the overrides change: stage1, stage2 and ar")
    overrides: Overrides = section(Overrides, "of all variants")
    probes: dict[str, list[str]] = option({}, "overrides of more generators on the same codes")
    samplings: dict[str, list[str]] = option({}, "overrides of each way to draw samples")
    variants: dict[str, Variant] = option({}, "what is compared")
    only: list[str] | None = option(None, "variants to run; null: all")
    reference: str | None = option(None, "variant that the others are compared with, seed by seed")


def check(config: AblationConfig) -> None:
    """Raise UserError for what would otherwise be ignored, overwritten or mixed up in silence."""
    if not config.seeds or not config.variants:
        raise UserError("the configuration lists no seeds or no variants")
    titles = [variant.title for variant in config.variants.values()]
    if not config.generators and (config.probes or config.samplings):
        raise UserError("probes and samplings need generators, but generators is false")
    names = [*RUN_NAMES, *config.probes, *config.samplings]
    for what, values in (("seeds", config.seeds), ("titles", titles), ("probes and samplings", names)):
        if repeated := [value for value in values if values.count(value) > 1]:
            raise UserError(f"{what}: '{repeated[0]}' is taken already")
    for what, chosen in (("only", config.only or ()), ("reference", filter(None, [config.reference]))):
        for name in chosen:
            if name not in config.variants:
                raise UserError(f"{what}: there is no variant '{name}'{nearest(name, config.variants)}")
    for name, variant in config.variants.items():
        files = {**config.configs, **variant.configs}
        if unknown := [file for file in files if file not in TRAININGS]:
            raise UserError(f"configs: '{unknown[0]}' is none of {', '.join(TRAININGS)}")
        unused = {
            "stage1": variant.tokenizer or variant.codes_of,
            "stage2": not variant.second_stage,
            "ar": not config.generators,
        }
        if missing := [file for file in TRAININGS if file not in files and not unused.get(file)]:
            raise UserError(f"variants.{name} has no file for {missing[0]}: set configs.{missing[0]}")
        if variant.stage2 and not variant.second_stage:
            raise UserError(f"variants.{name} has overrides of stage2, but second_stage is false")
        if variant.ar and not config.generators:
            raise UserError(f"variants.{name} has overrides of ar, but generators is false")
        if variant.tokenizer and (variant.stage1 or variant.second_stage):
            raise UserError(f"variants.{name}: the tokenizer in {variant.tokenizer} is trained already")
        if other := variant.codes_of:
            if other not in config.variants or config.variants[other].codes_of:
                raise UserError(f"variants.{name}.codes_of: '{other}' is not a variant with codes of its own")
            if variant.stage1 or variant.tokenizer or "stage1" in variant.configs:
                raise UserError(f"variants.{name} uses the codes of '{other}': what changes stage1 belongs there")
