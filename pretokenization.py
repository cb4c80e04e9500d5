"""Encode the images of a data set once into a token cache for AR training.

torchrun --nproc_per_node=8 pretokenization.py --img_size 256 --batch_size 32 --ten_crop --data_path IMAGENET
"""

import argparse
from pathlib import Path

from dataset.crops import NUM_VIEWS
from dataset.image_folder import list_images
from dataset.pretokenize import pretokenize
from dataset.token_cache import CacheMetadata
from modeling.build import load_tokenizer
from utils.config import read_tokenizer_config
from utils.distributed import init_process
from utils.errors import UserError, entry_point
from utils.weights import fingerprint


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--data_path", required=True, help="folder with SPLIT/<class>/<image>")
    parser.add_argument("--split", default="train", help="sub-folder of --data_path to encode")
    parser.add_argument("--img_size", type=int, default=256, help="side of the views in pixels")
    parser.add_argument("--ten_crop", action="store_true", help="cache ten crops, not the centre and its mirror image")
    parser.add_argument("--cached_path", type=Path, default=Path("cache_alitok"), help="cache folder to write")
    parser.add_argument("--batch_size", type=int, default=32, help="images (not views) per process and batch")
    parser.add_argument("--num_workers", type=int, default=8, help="decoding processes per process")
    parser.add_argument("--tokenizer_config", default="configs/tokenizer_stage2.yaml", help="YAML with model.vq_model")
    parser.add_argument("--tokenizer_checkpoint", default="weights/AliTok.pth", help="tokenizer weights")
    parser.add_argument("--device", choices=("cuda", "cpu"), help="default: a GPU if there is one")
    parser.add_argument("--precision", choices=("fp32", "bf16"), help="default: bf16 on a GPU, fp32 on the CPU")
    parser.add_argument("--format", choices=("packed",), default="packed", help="layout of the cache")
    return parser.parse_args()


@entry_point
def main() -> None:
    args = parse_arguments()
    state = init_process(args.device)
    config = read_tokenizer_config(args.tokenizer_config)
    images = list_images(args.data_path, args.split)
    tokenizer = load_tokenizer(config, args.tokenizer_checkpoint, state.device)
    if args.img_size != tokenizer.image_size:
        raise UserError(f"--img_size is {args.img_size}, but {args.tokenizer_config} says {tokenizer.image_size}")
    metadata = CacheMetadata(
        num_images=len(images),
        num_views=NUM_VIEWS[args.ten_crop],
        num_codes=tokenizer.num_codes,
        codebook_size=tokenizer.codebook_size,
        image_size=args.img_size,
        crop="ten_crop" if args.ten_crop else "center_and_flip",
        split=args.split,
        precision=args.precision or ("bf16" if state.device.type == "cuda" else "fp32"),
        tokenizer_sha256=fingerprint(tokenizer.state_dict()),
        classes=images.classes,
    )
    pretokenize(
        tokenizer,
        images,
        args.cached_path,
        metadata,
        state,
        ten_crop=args.ten_crop,
        batch_size=args.batch_size,
        num_workers=args.num_workers,
    )


if __name__ == "__main__":
    main()
