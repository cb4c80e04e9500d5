"""Encode the images of a data set once into a token cache for AR training, or check a cache.

torchrun --nproc_per_node=8 pretokenization.py --img_size 256 --batch_size 32 --ten_crop --data_path IMAGENET
python pretokenization.py --check cache_alitok
"""

import argparse
from pathlib import Path

from dataset.crops import NUM_VIEWS
from dataset.image_folder import list_images
from dataset.token_cache.check import differing_codes, draw, summarise, verify_checksums
from dataset.token_cache.encode import pretokenize
from dataset.token_cache.metadata import LAYOUTS, SHARD_SIZE, CacheMetadata
from dataset.token_cache.reader import open_token_cache
from modeling.build import load_tokenizer
from modeling.configs import read_tokenizer_config
from utils.arguments import at_least
from utils.errors import UserError, entry_point
from utils.process import init_process
from utils.weights import fingerprint

TOKENIZER_CONFIG = "configs/tokenizer_stage2.yaml"
TOKENIZER_CHECKPOINT = "weights/AliTok.pth"
MOST_DIFFERING = 0.5  # of the codes; beyond, the cache is of another tokenizer or other images


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])

    def add(name: str, help: str, **options) -> None:
        default = options.get("default")
        shown = f" (default: {default})" if default not in (None, False) else ""
        parser.add_argument(name, help=help + shown, **options)

    add("--data_path", "folder with SPLIT/<class>/<image>")
    add("--split", "sub-folder of --data_path to encode", default="train")
    add("--max_images", "encode so many, spread evenly over the classes; all by default", type=at_least(1))
    add("--img_size", "side of the views in pixels", type=at_least(1), default=256)
    add("--ten_crop", "cache ten crops, not the centre and its mirror image", action="store_true")
    add("--cached_path", "cache folder to write", type=Path, default=Path("cache_alitok"))
    add("--batch_size", "images (not views) per process and batch", type=at_least(1), default=32)
    add("--num_workers", "decoding processes per process", type=at_least(0), default=8)
    add("--tokenizer_config", f"YAML with model.vq_model (default: {TOKENIZER_CONFIG})")
    add("--tokenizer_checkpoint", f"tokenizer weights (default: {TOKENIZER_CHECKPOINT})")
    add("--device", "default: a GPU if there is one", choices=("cuda", "cpu"))
    add("--precision", "default: bf16 on a GPU, fp32 on the CPU", choices=("fp32", "bf16"))
    add("--format", "layout of the cache; npz is the published one", choices=LAYOUTS, default="packed")
    add("--shard_size", "images that a killed process may have to encode again", type=at_least(1), default=SHARD_SIZE)
    add("--skip_bad", "leave out files that cannot be decoded, and list them in the metadata", action="store_true")
    add(
        "--check",
        "verify this cache, summarise its codes, compare some with float32 encoding, and draw some into check.png;"
        " images and tokenizer are those it was made with, unless named",
        type=Path,
        metavar="CACHE",
    )
    add("--check_images", "with --check: compare this many images with float32 encoding", type=at_least(1), default=16)
    return parser.parse_args()


def encode(args: argparse.Namespace) -> None:
    if not args.data_path:
        raise UserError("--data_path is missing: a folder with train/<class>/<image>")
    state = init_process(args.device)
    config_file = args.tokenizer_config or TOKENIZER_CONFIG
    checkpoint = args.tokenizer_checkpoint or TOKENIZER_CHECKPOINT
    config = read_tokenizer_config(config_file)
    images = list_images(args.data_path, args.split)
    images = images.evenly(args.max_images) if args.max_images else images
    tokenizer = load_tokenizer(config, checkpoint, state.device)
    if args.img_size != tokenizer.image_size:
        raise UserError(f"--img_size is {args.img_size}, but {config_file} says {tokenizer.image_size}")
    metadata = CacheMetadata(
        num_files=len(images),
        files_sha256=images.fingerprint(),
        num_views=NUM_VIEWS[args.ten_crop],
        num_codes=tokenizer.num_codes,
        codebook_size=tokenizer.codebook_size,
        image_size=args.img_size,
        crop="ten_crop" if args.ten_crop else "center_and_flip",
        split=args.split,
        precision=args.precision or ("bf16" if state.device.type == "cuda" else "fp32"),
        tokenizer_sha256=fingerprint(tokenizer.state_dict()),
        classes=images.classes,
        layout=args.format,
        shard_size=args.shard_size,
        data_path=str(Path(args.data_path).resolve()),
        tokenizer_config=str(Path(config_file).resolve()),
        tokenizer_checkpoint=str(Path(checkpoint).resolve()),
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
        skip_bad=args.skip_bad,
    )


def check(args: argparse.Namespace) -> None:
    cache = open_token_cache(args.check)
    metadata = cache.metadata
    if metadata is None:
        hint = "convert it first (python -m dataset.token_cache.convert --help)"
        raise UserError(f"{args.check} has no metadata.json: {hint}")
    sizes = f"{len(cache)} images, {cache.num_views} views of {cache.num_codes} codes"
    print(f"{args.check}: {metadata.layout} layout, {sizes}")
    print(f"made with {metadata.crop} at {metadata.image_size} pixels in {metadata.precision}")
    print(f"tokenizer: {metadata.tokenizer_checkpoint or 'unknown'}, SHA-256 {metadata.tokenizer_sha256[:16]}")
    if metadata.skipped:
        print(f"without {len(metadata.skipped)} files that could not be decoded: {', '.join(metadata.skipped[:5])}")
    print(f"hashes: {verify_checksums(args.check)} files are as written")
    print("\n".join(summarise(cache, metadata.codebook_size).lines()))
    root = Path(args.data_path or metadata.data_path) / metadata.split
    config_file = args.tokenizer_config or metadata.tokenizer_config
    checkpoint = args.tokenizer_checkpoint or metadata.tokenizer_checkpoint
    for what, path, flag in (
        ("images", root, "--data_path"),
        ("tokenizer configuration", Path(config_file), "--tokenizer_config"),
        ("tokenizer", Path(checkpoint), "--tokenizer_checkpoint"),
    ):
        if not path.exists() or path == Path():
            print(f"no comparison with the images: the {what} {path} is not there; name another with {flag}")
            return
    tokenizer = load_tokenizer(read_tokenizer_config(config_file), checkpoint, init_process(args.device).device)
    if fingerprint(tokenizer.state_dict()) != metadata.tokenizer_sha256:
        raise UserError(f"{checkpoint} is not the tokenizer that made {args.check}: its SHA-256 differs")
    share = differing_codes(cache, metadata, root, tokenizer, args.check_images)
    print(f"float32 encoding gives {share:.3%} of the codes otherwise ({args.check_images} images)")
    if share > MOST_DIFFERING:
        raise UserError(f"{args.check} does not hold the codes of the images in {root}: {share:.1%} differ")
    draw(cache, metadata, root, tokenizer, args.check / "check.png")
    print(f"wrote {args.check / 'check.png'}: source crops, and what their cached codes decode to")


@entry_point
def main() -> None:
    args = parse_arguments()
    if args.check:
        check(args)
    else:
        encode(args)


if __name__ == "__main__":
    main()
