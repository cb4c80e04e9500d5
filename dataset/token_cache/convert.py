"""Convert a token cache to the packed layout or to one npz an image.

python -m dataset.token_cache.convert cache_alitok cache_packed --layout packed
python -m dataset.token_cache.convert maskgitvq.jsonl cache_packed --codebook_size 1024 --img_size 256
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from accelerate import PartialState

from dataset.images import ImageList
from dataset.token_cache.metadata import LAYOUTS, UNKNOWN, CacheMetadata
from dataset.token_cache.reader import TokenCache, open_token_cache
from dataset.token_cache.writer import CacheWriter
from utils.arguments import at_least, file_path
from utils.errors import UserError, entry_point
from utils.progress import tqdm

CROPS = {10: "ten_crop", 2: "center_and_flip"}  # by number of views


def infer_metadata(cache: TokenCache, codebook_size: int | None, image_size: int | None) -> CacheMetadata:
    """Metadata of a third-party cache. Fields that cannot be inferred are set to "unknown"."""
    if codebook_size is None or image_size is None:
        raise UserError(f"{cache.path} has no metadata.json: give --codebook_size and --img_size of its tokenizer")
    return CacheMetadata(
        num_files=len(cache),
        files_sha256="",
        num_views=cache.num_views,
        num_codes=cache.num_codes,
        codebook_size=codebook_size,
        image_size=image_size,
        crop=CROPS.get(cache.num_views, UNKNOWN),
        split=UNKNOWN,
        precision=UNKNOWN,
        tokenizer_sha256=UNKNOWN,
        classes=cache.classes,
    )


def convert(cache: TokenCache, target: Path, metadata: CacheMetadata) -> None:
    """Write `cache` to `target` in the layout of `metadata`. A killed run can be run again.

    Raises UserError for codes outside the codebook.
    """
    cache.require_fit(metadata.num_codes, metadata.codebook_size, len(metadata.classes))
    # The copy lists only the images that have codes.
    images = ImageList(cache.path, metadata.classes, tuple(cache.paths()), cache.labels)
    metadata = replace(metadata, num_files=len(images), files_sha256=images.fingerprint(), skipped=())
    writer = CacheWriter(target, metadata, images)
    with writer.locked(PartialState(cpu=True)):
        if writer.prepare():
            print(f"{target} is complete")
            return
        for shard in tqdm(writer.missing(), "shards", mininterval=1.0):
            codes = np.stack([cache.views(i) for i in writer.items(shard)])
            writer.write(shard, writer.items(shard), codes)
        writer.finish()
    print(f"{target} is complete: {len(images)} images")


@entry_point
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", metavar="SOURCE", type=file_path, help="token cache of any layout")
    parser.add_argument("target", metavar="TARGET", type=file_path, help="folder to write")
    parser.add_argument("--layout", choices=LAYOUTS, default="packed", help="of TARGET (default: packed)")
    only = "only if SOURCE has no metadata.json: "
    parser.add_argument("--codebook_size", type=at_least(1), help=f"{only}codes are below this")
    parser.add_argument("--img_size", type=at_least(1), help=f"{only}side of the views in pixels")
    args = parser.parse_args()
    cache = open_token_cache(args.source)
    metadata = cache.metadata or infer_metadata(cache, args.codebook_size, args.img_size)
    convert(cache, args.target, replace(metadata, layout=args.layout))


if __name__ == "__main__":
    main()
