"""Sample images class by class into an .npz for ADM's evaluator.

torchrun --nproc_per_node=8 sample_imagenet.py config=configs/alitok_b.yaml \\
    experiment.output_dir=output/alitok_b experiment.generator_checkpoint=weights/alitok_b.bin
"""

import numpy as np
import torch
from tqdm import tqdm

from dataset.sample_shards import SampleShards
from modeling.build import cast_parameters, check_fit, load_generator, load_tokenizer
from modeling.sampler import image_noise, sample_codes
from utils.config import load_config
from utils.distributed import init_process
from utils.errors import UserError, entry_point
from utils.images import to_bytes
from utils.schema import ARConfig
from utils.weights import fingerprint


def class_of_image(config: ARConfig, num_classes: int) -> list[int]:
    """Class of every image: 0, 1, ..., num_classes - 1, again and again, or those that were asked for."""
    chosen = config.sampling.class_ids or range(num_classes)
    for class_id in chosen:
        if not 0 <= class_id < num_classes:
            raise UserError(f"sampling.class_ids: {class_id} is out of range, the classes are 0 to {num_classes - 1}")
    return [chosen[i % len(chosen)] for i in range(config.sampling.num_samples)]


@torch.inference_mode()
def sample_images(
    generator, tokenizer, image_ids: range, class_ids: list[int], config: ARConfig, device: torch.device
) -> np.ndarray:
    """Images of the given numbers and classes, (n, H, W, 3) uint8."""
    settings = config.model.generator
    codes = sample_codes(
        generator,
        torch.tensor(class_ids, device=device),
        image_noise(settings.seed, image_ids, generator.num_codes),
        scale=settings.guidance_scale,
        power=settings.guidance_scale_pow,
        temperature=settings.randomize_temperature,
    )
    with torch.autocast(device.type, torch.bfloat16, enabled=precision_of(config, device) == "bf16"):
        images = tokenizer.decode(codes)
    return to_bytes(images).cpu().numpy()


def precision_of(config: ARConfig, device: torch.device) -> str:
    precision = config.sampling.precision or ("bf16" if device.type == "cuda" else "fp32")
    if precision not in ("bf16", "fp32"):
        raise UserError(f"sampling.precision is '{precision}'; choose bf16 or fp32")
    return precision


@entry_point
def main() -> None:
    config = load_config(ARConfig, __doc__)
    experiment, sampling = config.experiment, config.sampling
    if not experiment.generator_checkpoint:
        raise UserError("experiment.generator_checkpoint is not set: the weights to sample from")
    state = init_process()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = config.training.enable_tf32
    tokenizer = load_tokenizer(config.model.vq_model, experiment.tokenizer_checkpoint, state.device)
    generator = load_generator(config.model.generator, experiment.generator_checkpoint, state.device)
    check_fit(tokenizer, generator)
    classes = class_of_image(config, generator.num_classes)
    settings, precision = config.model.generator, precision_of(config, state.device)
    identity = {
        "tokenizer": fingerprint(tokenizer.state_dict()),
        "generator": fingerprint(generator.state_dict()),
        "seed": settings.seed,
        "guidance_scale": settings.guidance_scale,
        "guidance_scale_pow": settings.guidance_scale_pow,
        "temperature": settings.randomize_temperature,
        "class_ids": sampling.class_ids,
        "precision": precision,
    }
    if precision == "bf16":
        cast_parameters(generator, torch.bfloat16)
    shards = SampleShards(experiment.output_dir, sampling.num_samples, tokenizer.image_size, identity)
    with state.main_process_first():
        complete = shards.begin()
    if complete:
        if sampling.save_png and state.is_main_process:
            shards.complete_pngs()
        state.print(f"{shards.npz} is complete ({sampling.num_samples} images)")
        return
    missing = shards.missing()
    state.wait_for_everyone()  # no shard may be written before everyone has looked
    mine = missing[state.process_index :: state.num_processes]
    bar = tqdm(
        total=sum(len(shards.images_of(s)) for s in mine),
        unit="image",
        desc=f"sampling, process 1 of {state.num_processes}",
        disable=not state.is_main_process,
    )
    for shard in mine:
        ids, parts = shards.images_of(shard), []
        for start in range(0, len(ids), sampling.batch_size):
            chosen = ids[start : start + sampling.batch_size]
            wanted = classes[chosen.start : chosen.stop]
            parts.append(sample_images(generator, tokenizer, chosen, wanted, config, state.device))
            bar.update(len(parts[-1]))
        images = np.concatenate(parts)
        if sampling.save_png:  # before the shard, whose presence means that all is done
            shards.write_pngs(shard, images)
        shards.write(shard, images)
    bar.close()
    state.wait_for_everyone()
    if state.is_main_process:
        print(f"wrote {shards.assemble(np.array(classes))}")
        if sampling.save_png:
            shards.complete_pngs()
    state.wait_for_everyone()


if __name__ == "__main__":
    main()
