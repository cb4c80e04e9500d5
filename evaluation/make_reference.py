"""Write a reference .npz for the evaluator from an image folder: centre crops as `arr_0`, labels as `arr_1`.

python -m evaluation.make_reference --data_path data/fashion_mnist --split val --img_size 32 --output reference.npz
"""

import argparse
from pathlib import Path

import numpy as np
from torch.utils.data import DataLoader
from tqdm import tqdm

from dataset.crops import center_crop
from dataset.image_folder import list_images
from dataset.image_loader import CenterCrops
from utils.atomic import write_atomically
from utils.errors import entry_point


@entry_point
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--data_path", required=True, help="folder with SPLIT/<class>/<image>")
    parser.add_argument("--split", default="val")
    parser.add_argument("--img_size", type=int, default=256, help="side of the centre crops in pixels")
    parser.add_argument("--output", type=Path, required=True, help=".npz file to write")
    parser.add_argument("--num_workers", type=int, default=0, help="decoding processes")
    args = parser.parse_args()
    images = list_images(args.data_path, args.split)
    loader = DataLoader(CenterCrops(images, args.img_size, center_crop), 256, num_workers=args.num_workers)
    crops = [b.permute(0, 2, 3, 1).numpy() for b in tqdm(loader, desc="reference images", mininterval=1.0)]
    array = np.ascontiguousarray(np.concatenate(crops))
    write_atomically(args.output, lambda f: np.savez(f, arr_0=array, arr_1=images.labels))
    print(f"wrote {args.output}: {len(array)} images")


if __name__ == "__main__":
    main()
