"""Sample images class by class into an .npz for ADM's evaluator.

torchrun --nproc_per_node=8 sample_imagenet.py config=configs/alitok_b.yaml \\
    experiment.output_dir=output/alitok_b experiment.generator_checkpoint=weights/alitok_b.bin
"""

from dataclasses import asdict

import numpy as np
from accelerate import PartialState
from tqdm import tqdm

from modeling.build import check_fit, load_generator, load_tokenizer
from modeling.interfaces import Generator, Tokenizer
from sampling.autoregressive import SamplingSettings
from sampling.pipeline import PRECISIONS, AliTokPipeline, default_precision
from sampling.shards import SampleShards
from utils.config import load_config
from utils.errors import UserError, entry_point
from utils.images import to_bytes
from utils.process import init_process
from utils.schema import ARConfig
from utils.sharded_output import background_writer
from utils.weights import fingerprint


def class_of_image(config: ARConfig, num_classes: int) -> list[int]:
    """Class of every image: 0, 1, ..., num_classes - 1, again and again, or those that were asked for."""
    chosen = config.sampling.class_ids or range(num_classes)
    for class_id in chosen:
        if not 0 <= class_id < num_classes:
            raise UserError(f"sampling.class_ids: {class_id} is out of range, the classes are 0 to {num_classes - 1}")
    return [chosen[i % len(chosen)] for i in range(config.sampling.num_samples)]


def settings_of(config: ARConfig) -> SamplingSettings:
    sampling = config.sampling
    if sampling.precision not in (None, *PRECISIONS):
        raise UserError(f"sampling.precision is '{sampling.precision}'; choose {' or '.join(PRECISIONS)}")
    try:
        return SamplingSettings.of(
            config.model.generator,
            guidance_schedule=sampling.guidance_schedule,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
        )
    except ValueError as error:
        raise UserError(f"sampling: {error}") from error


def identity_of(
    config: ARConfig, settings: SamplingSettings, tokenizer: Tokenizer, generator: Generator, precision: str
) -> dict:
    """All that decides the images, by name."""
    return {
        "tokenizer": fingerprint(tokenizer.state_dict()),
        "generator": fingerprint(generator.state_dict()),
        "seed": config.model.generator.seed,
        **asdict(settings),
        "class_ids": config.sampling.class_ids,
        "precision": precision,
    }


def draw_shards(
    pipeline: AliTokPipeline, shards: SampleShards, mine: list[int], classes: list[int], pngs: bool, state: PartialState
) -> None:
    """Draw this process's shards; each is written while the next one is drawn."""
    total = sum(len(shards.items(s)) for s in mine)
    title = f"sampling, process 1 of {state.num_processes}"
    with (
        background_writer() as submit,
        tqdm(total=total, unit="image", desc=title, disable=not state.is_main_process) as bar,
    ):
        for shard in mine:
            ids, parts = shards.items(shard), []
            for start in range(0, len(ids), pipeline.batch_size):
                chosen = ids[start : start + pipeline.batch_size]
                images = pipeline.generate([classes[i] for i in chosen], chosen)
                parts.append(to_bytes(images).cpu().numpy())
                bar.update(len(chosen))
            submit(shards.write, shard, np.concatenate(parts), pngs)


@entry_point
def main() -> None:
    config = load_config(ARConfig, __doc__)
    experiment, sampling = config.experiment, config.sampling
    if not experiment.generator_checkpoint:
        raise UserError("experiment.generator_checkpoint is not set: the weights to sample from")
    settings = settings_of(config)
    state = init_process()
    tokenizer = load_tokenizer(config.model.vq_model, experiment.tokenizer_checkpoint, state.device)
    generator = load_generator(config.model.generator, experiment.generator_checkpoint, state.device)
    check_fit(tokenizer, generator)
    classes = class_of_image(config, generator.num_classes)
    precision = sampling.precision or default_precision(state.device)
    identity = identity_of(config, settings, tokenizer, generator, precision)
    shards = SampleShards(experiment.output_dir, sampling.num_samples, tokenizer.image_size, identity)
    if shards.prepare(state.is_main_process):
        if sampling.save_png and state.is_main_process:
            shards.complete_pngs()
        state.print(f"{shards.npz} is complete ({sampling.num_samples} images)")
        return
    pipeline = AliTokPipeline(
        tokenizer,
        generator,
        settings,
        seed=config.model.generator.seed,
        precision=precision,
        compile=sampling.compile,
        batch_size=min(sampling.batch_size, shards.shard_size),
    )
    draw_shards(pipeline, shards, shards.claim(state), classes, sampling.save_png, state)
    state.wait_for_everyone()
    if state.is_main_process:
        print(f"wrote {shards.assemble(np.array(classes))}")
        if sampling.save_png:
            shards.complete_pngs()
    state.wait_for_everyone()


if __name__ == "__main__":
    main()
