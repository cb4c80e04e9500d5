"""Draw a grid of chosen classes, by number or name, into a PNG file.

python sample.py output/alitok_b --classes "golden retriever,250,volcano" --per_class 4
python sample.py weights/alitok_b.bin --config configs/alitok_b.yaml --classes 207 --guidance_scale 8
python sample.py output/alitok_b --classes 207,250 --complete dog.jpg --keep 145
"""

import argparse
from pathlib import Path

import torch

from dataset.class_names import class_id
from dataset.images import read_center_crop
from modeling.layers.precision import PRECISIONS
from sampling.guidance import SCHEDULES
from sampling.masked import DECAYS
from sampling.pipeline import Pipeline
from utils.arguments import at_least, file_path, number
from utils.errors import entry_point
from utils.images import grid, preview_scale, save_png
from utils.output_file import PNG, output_file
from utils.pretrained import weights_folder
from utils.process import init_process

SETTINGS = ("guidance_scale", "guidance_scale_pow", "guidance_schedule", "temperature", "top_k", "top_p")
SETTINGS += ("soft_guidance", "num_steps", "guidance_decay")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("source", help="folder of a training, hub id (name/repository), or the generator's weights with --config")
    add("--classes", required=True, help="numbers or names, separated by commas; one row of the grid each")
    add("--per_class", type=at_least(1), default=4, help="images of each class (default: 4)")
    add("--output", type=file_path, default=Path("samples.png"), help="PNG file to write (default: samples.png)")
    add(
        "--tokenizer",
        type=file_path,
        help="tokenizer weights; default: those beside the generator, or what its configuration names",
    )
    add(
        "--config",
        type=file_path,
        help="YAML with model.vq_model and model.generator; default: config.yaml in the folder",
    )
    add("--seed", type=number(int, min=0, below=2**63), help="default: that of the configuration")
    add("--guidance_scale", type=number(float), help="default: that of the configuration; 0: no guidance")
    add("--guidance_scale_pow", type=number(float, min=0), help="default: that of the configuration")
    add("--guidance_schedule", choices=tuple(SCHEDULES), help="default: power_cosine")
    add("--soft_guidance", action="store_true", default=None, help="SoftCFG, for autoregressive generators")
    add("--temperature", type=number(float, min=0), help="0: the most likely code; default: that of the configuration")
    add("--top_k", type=at_least(1), help="default: all codes")
    add("--top_p", type=number(float, above=0, max=1), help="default: all codes")
    add("--num_steps", type=at_least(1), help="masked generators: sampling steps; default: that of the configuration")
    add("--guidance_decay", choices=DECAYS, help="masked generators: default: that of the configuration")
    add("--precision", choices=PRECISIONS, help="default: bf16 on a GPU, fp32 on the CPU")
    add("--batch_size", type=at_least(1), default=32, help="images at a time (default: 32)")
    add("--complete", type=file_path, metavar="IMAGE", help="keep the first codes of this image and draw the others")
    add("--keep", type=at_least(0), help="with --complete: how many codes stay, of those that are drawn first")
    add("--device", choices=("cuda", "cpu"), help="default: a GPU if there is one")
    args = parser.parse_args()
    if (args.complete is None) != (args.keep is None):
        parser.error("--complete and --keep belong together")
    return args


def draw(args: argparse.Namespace) -> None:
    words = args.classes.split(",")
    pipeline = Pipeline.from_pretrained(
        args.source,
        tokenizer=args.tokenizer,
        config=args.config,
        device=init_process(args.device).device,
        seed=args.seed,
        settings={name: value for name in SETTINGS if (value := getattr(args, name)) is not None},
        precision=args.precision,
        compile=False,  # for a few images the compiler takes longer than it saves
        batch_size=min(args.batch_size, len(words) * args.per_class),
    )
    folder, num_classes = weights_folder(args.source), pipeline.generator.num_classes
    classes = [number for word in words for number in [class_id(word, folder, num_classes)] * args.per_class]
    if args.complete is None:
        images = pipeline.generate(classes)
    else:
        images = pipeline.complete(read_center_crop(args.complete, pipeline.tokenizer.image_size), args.keep, classes)
    save_png(grid(images, columns=args.per_class, scale=preview_scale(images.shape[-1])), args.output)
    rows = (f"{word.strip()} ({c})" for word, c in zip(words, classes[:: args.per_class], strict=True))
    print(f"wrote {args.output}: {', '.join(rows)}")


@entry_point
def main() -> None:
    args = parse_arguments()
    with output_file(args.output, "--output", PNG):
        draw(args)


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
