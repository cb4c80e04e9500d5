"""Encode the images of a data set once into a token cache for generator training, or check a cache.

torchrun --nproc_per_node=8 pretokenization.py --img_size 256 --batch_size 32 --ten_crop --data_path IMAGENET
python pretokenization.py --check cache_alitok
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

from dataset.crops import NUM_VIEWS
from dataset.images import list_images, list_images_together
from dataset.token_cache.check import check_against_images, check_content, draw_positions
from dataset.token_cache.encode import EncodeSettings, pretokenize
from dataset.token_cache.metadata import LAYOUTS, SHARD_SIZE, CacheMetadata
from dataset.token_cache.reader import TokenCache, open_token_cache
from modeling.build import code_layout, load_tokenizer, tokenizer_fingerprint
from modeling.configs import read_tokenizer_config
from modeling.interfaces import CodeLayout
from modeling.layers.precision import PRECISIONS, default_precision
from utils.arguments import at_least, file_path
from utils.errors import UserError, entry_point
from utils.pretrained import config_file, find_pretrained_weights
from utils.process import init_process


@dataclass(frozen=True)
class Defaults:
    """What the command line leaves out."""

    tokenizer_config: str = "configs/tokenizer_stage2.yaml"
    tokenizer_checkpoint: str = "weights/AliTok.pth"
    cached_path: str = "cache_alitok"


def parse_arguments(defaults: Defaults, description: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description)

    def add(name: str, help: str, **options) -> None:
        default = options.get("default")
        shown = f" (default: {default})" if default not in (None, False) else ""
        parser.add_argument(name, help=help + shown, **options)

    add("--data_path", "folder with SPLIT/<class>/<image>, or archives: docs/data.md", type=file_path)
    add("--split", "part of --data_path to encode", default="train")
    add("--max_images", "encode at most this many, spaced evenly over the classes (default: all)", type=at_least(1))
    add("--img_size", "side of the views in pixels", type=at_least(1), default=256)
    add("--ten_crop", "cache ten crops, not the centre and its mirror image", action="store_true")
    add("--cached_path", "cache folder to write", type=file_path, default=Path(defaults.cached_path))
    add("--batch_size", "images (not views) per process and batch", type=at_least(1), default=32)
    add("--num_workers", "decoding processes per process", type=at_least(0), default=8)
    add("--tokenizer_config", f"YAML with model.vq_model (default: {defaults.tokenizer_config})", type=file_path)
    add("--tokenizer_checkpoint", f"tokenizer weights (default: {defaults.tokenizer_checkpoint})", type=file_path)
    add("--device", "default: a GPU if there is one", choices=("cuda", "cpu"))
    add("--precision", "default: bf16 on a GPU, fp32 on the CPU", choices=PRECISIONS)
    add("--compile", "torch.compile the tokenizer (default: on a GPU)", action=argparse.BooleanOptionalAction)
    add("--format", "layout of the cache; npz is the published one", choices=LAYOUTS, default="packed")
    add("--shard_size", "images that a killed process may have to encode again", type=at_least(1), default=SHARD_SIZE)
    add("--skip_bad", "leave out files that cannot be decoded, and list them in the metadata", action="store_true")
    add(
        "--check",
        "check this cache: hashes, statistics of the codes (by position in positions.png), some codes against a float32"
        " encoding, and some images drawn into check.png; images and tokenizer are those in its metadata, unless given",
        type=file_path,
        metavar="CACHE",
    )
    add("--check_images", "with --check: encode this many images again", type=at_least(1), default=16)
    return parser.parse_args()


def encode(args: argparse.Namespace, defaults: Defaults) -> None:
    if not args.data_path:
        raise UserError("--data_path is missing: a folder with train/<class>/<image>")
    if args.cached_path.is_file():
        raise UserError(f"--cached_path {args.cached_path} is a file; name a folder to write")
    state = init_process(args.device)
    config_source = args.tokenizer_config or defaults.tokenizer_config
    checkpoint = args.tokenizer_checkpoint or defaults.tokenizer_checkpoint
    config = read_tokenizer_config(config_source)
    layout = code_layout(config)
    images = list_images_together(args.data_path, args.split)
    images = images.evenly_spaced(args.max_images) if args.max_images else images
    tokenizer = load_tokenizer(config, checkpoint, state.device)
    if args.img_size != tokenizer.image_size:
        raise UserError(f"--img_size is {args.img_size}, but {config_source} says {tokenizer.image_size}")
    metadata = CacheMetadata(
        num_files=len(images),
        files_sha256=images.fingerprint(),
        num_views=NUM_VIEWS[args.ten_crop],
        num_codes=layout.num_codes,
        codebook_size=layout.codebook_size,
        image_size=args.img_size,
        crop="ten_crop" if args.ten_crop else "center_and_flip",
        split=args.split,
        precision=args.precision or default_precision(state.device),
        tokenizer_sha256=tokenizer_fingerprint(tokenizer),
        classes=images.classes,
        layout=args.format,
        shard_size=args.shard_size,
        data_path=str(Path(args.data_path).resolve()),
        tokenizer_config=_absolute(config_source),
        tokenizer_checkpoint=_absolute(checkpoint),
    )
    settings = EncodeSettings(args.batch_size, args.num_workers, args.skip_bad, args.compile)
    pretokenize(tokenizer, images, args.cached_path, metadata, settings, state)


def _absolute(source: str | Path) -> str:
    """The absolute path of a file or folder; a hub id stays as it is."""
    return str(Path(source).resolve() if Path(source).exists() else source)


def _has_config(source: Path) -> bool:
    """Whether a tokenizer's configuration is there: a file, a folder or a hub id."""
    try:
        return config_file(source).is_file()
    except UserError:
        return False


def _layout(cache: TokenCache, tokenizer_config: Path) -> CodeLayout:
    """Where the cached codes are in the image; on a line if no configuration tells it."""
    if tokenizer_config != Path() and _has_config(tokenizer_config):
        layout = code_layout(read_tokenizer_config(tokenizer_config))
        if layout.num_codes == cache.num_codes:
            return layout
    return CodeLayout(cache.metadata.codebook_size, cache.num_codes)


def check(args: argparse.Namespace) -> None:
    cache = open_token_cache(args.check)
    metadata = cache.metadata
    if metadata is None:
        hint = "convert it first (python -m dataset.token_cache.convert --help)"
        raise UserError(f"{args.check} has no metadata.json: {hint}")
    positions = check_content(cache)
    data = Path(args.data_path or metadata.data_path)
    config = Path(args.tokenizer_config or metadata.tokenizer_config)
    draw_positions(positions, _layout(cache, config), cache.path / "positions.png")
    checkpoint = Path(args.tokenizer_checkpoint or metadata.tokenizer_checkpoint)
    sources = {
        "--data_path": (data, Path.exists),
        "--tokenizer_config": (config, _has_config),
        "--tokenizer_checkpoint": (checkpoint, find_pretrained_weights),
    }
    for flag, (path, find) in sources.items():
        if path == Path() or not find(path):
            print(f"the codes are not compared with their images: there is no {flag} {path}; give another one")
            return
    try:
        images = list_images(data, metadata.split)
    except UserError as error:
        print(f"the codes are not compared with their images: {error}")
        return
    tokenizer = load_tokenizer(read_tokenizer_config(config), checkpoint, init_process(args.device).device)
    if tokenizer_fingerprint(tokenizer) != metadata.tokenizer_sha256:
        raise UserError(f"{checkpoint} is not the tokenizer that made {args.check}: its SHA-256 differs")
    check_against_images(cache, images, tokenizer, args.check_images)


@entry_point
def main(defaults: Defaults, description: str) -> None:
    args = parse_arguments(defaults, description)
    if args.check:
        check(args)
    else:
        encode(args, defaults)


if __name__ == "__main__":
    main(Defaults(), __doc__.splitlines()[0])
