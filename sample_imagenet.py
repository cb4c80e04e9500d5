"""Sample images class by class into an .npz for ADM's evaluator.

torchrun --nproc_per_node=8 sample_imagenet.py config=configs/alitok_b.yaml \\
    experiment.output_dir=output/alitok_b experiment.generator_checkpoint=weights/alitok_b.bin
"""

from dataclasses import asdict

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object

from modeling.build import code_layout, load_generator, load_tokenizer, tokenizer_fingerprint
from modeling.interfaces import GENERATORS, Generator
from modeling.layers.precision import default_precision
from sampling.batch_size import choose_batch_size
from sampling.decoding import DecoderSettings, decoder_settings
from sampling.pipeline import Pipeline, require_class
from sampling.shards import SampleShards, choose_shard_size
from train_generator.config import ARConfig
from utils.config import load_config
from utils.errors import UserError, entry_point
from utils.images import to_bytes
from utils.process import init_process
from utils.progress import of_processes, tqdm
from utils.sharded_output import background_writer
from utils.weights import fingerprint


def class_per_image(config: ARConfig, num_classes: int) -> list[int]:
    """The classes 0, 1, ..., num_classes - 1 again and again, or those of `sampling.class_ids`."""
    chosen = config.sampling.class_ids or range(num_classes)
    for class_id in chosen:
        require_class(class_id, num_classes, "sampling.class_ids:")
    return [chosen[i % len(chosen)] for i in range(config.sampling.num_samples)]


def draw_shards(
    pipeline: Pipeline, shards: SampleShards, mine: list[int], classes: list[int], pngs: bool, state: PartialState
) -> None:
    """Draw this process's shards; a thread writes each while the next one is drawn."""
    total = sum(len(shards.items(s)) for s in mine)
    title = of_processes("sampling", state.num_processes)
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


def agree_on_batch(
    config: ARConfig, generator: Generator, settings: DecoderSettings, precision: str, state: PartialState
) -> tuple[int, str]:
    """The batch size that every process's device has room for, at most a shard, and the kinds of devices."""
    largest, device = choose_shard_size(config.sampling.num_samples), state.device
    wanted = config.sampling.batch_size or choose_batch_size(generator, settings, precision, device, largest)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    sizes, names = zip(*gather_object([(min(wanted, largest), name)]), strict=True)
    return min(sizes), ", ".join(sorted(set(names)))


@entry_point
def main() -> None:
    config = load_config(ARConfig, __doc__)
    experiment, sampling, model = config.experiment, config.sampling, config.model
    if not experiment.generator_checkpoint:
        raise UserError("experiment.generator_checkpoint is not set: the weights to sample from")
    decoding = GENERATORS.part_class(model.generator.name).decoding
    settings = decoder_settings(model.generator, decoding, **sampling.changes())
    state = init_process()
    tokenizer = load_tokenizer(model.vq_model, experiment.tokenizer_checkpoint, state.device)
    layout = code_layout(model.vq_model)
    generator = load_generator(model.generator, layout, experiment.generator_checkpoint, state.device)
    classes = class_per_image(config, generator.num_classes)
    precision = sampling.precision or default_precision(state.device)
    identity = {  # what decides the images
        "tokenizer": tokenizer_fingerprint(tokenizer),
        "generator": fingerprint(generator.state_dict()),
        "seed": model.generator.seed,
        **asdict(settings),
        "class_ids": sampling.class_ids,
        "precision": precision,
    }
    batch_size, devices = agree_on_batch(config, generator, settings, precision, state)
    circumstances = {"batch_size": batch_size, "device": devices, "torch": torch.__version__}
    shards = SampleShards(experiment.output_dir, sampling.num_samples, tokenizer.image_size, identity, circumstances)
    with shards.locked(state):
        if shards.prepare_together(state):
            state.print(f"{shards.npz} is complete ({sampling.num_samples} images)")
        else:
            state.print(f"{batch_size} images at a time on {devices}")
            pipeline = Pipeline(
                tokenizer,
                generator,
                settings,
                seed=model.generator.seed,
                precision=precision,
                compile=sampling.compile,
                batch_size=batch_size,
            )
            draw_shards(pipeline, shards, shards.claim(state), classes, sampling.save_png, state)
            state.wait_for_everyone()
            if state.is_main_process:
                print(f"wrote {shards.assemble(np.array(classes))}")
        if sampling.save_png and state.is_main_process:
            shards.complete_pngs()
        state.wait_for_everyone()


if __name__ == "__main__":
    main()
