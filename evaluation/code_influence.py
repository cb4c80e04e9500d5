"""Where in the image a code acts: on its own patch, on earlier ones, on later ones.

python -m evaluation.code_influence --data_path data/fashion_mnist --tokenizer output/quickstart/tokenizer_stage1
"""

import argparse
from pathlib import Path

import torch
from einops import reduce

from dataset.data_order import evenly_spaced
from dataset.image_dataset import CenterCrops
from dataset.image_folder import list_images, to_float
from modeling.alitok.tokenizer import AliTok
from modeling.build import load_tokenizer
from modeling.configs import read_tokenizer_config
from utils.arguments import at_least
from utils.errors import entry_point
from utils.process import init_process


@torch.no_grad()
def code_reach(tokenizer: AliTok, codes: torch.Tensor) -> dict[str, float]:
    """Shares of the squared change of pixels when single image codes are exchanged for another image's.

    codes: (B, T), B >= 2. `own` is the patch at the code's place in the raster, `earlier` those before
    it, `later` those after it. A causal decoder has `earlier` 0.
    """
    whole, others = tokenizer.decode(codes), codes.roll(1, 0)
    sums = torch.zeros(3, dtype=torch.float64)
    p = tokenizer.patch_size
    for place in range(tokenizer.grid_size**2):
        changed = codes.clone()
        changed[:, tokenizer.num_prefix_tokens + place] = others[:, tokenizer.num_prefix_tokens + place]
        difference = (tokenizer.decode(changed) - whole).square()
        patches = reduce(difference, "b c (h p1) (w p2) -> (h w)", "sum", p1=p, p2=p).double().cpu()
        sums += torch.stack([patches[place], patches[:place].sum(), patches[place + 1 :].sum()])
    return dict(zip(("own", "earlier", "later"), (sums / sums.sum()).tolist(), strict=True))


@entry_point
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--data_path", required=True, help="folder with SPLIT/<class>/<image>")
    parser.add_argument("--split", default="val", help="sub-folder of --data_path")
    parser.add_argument("--tokenizer", type=Path, nargs="+", required=True, help="output folders of trainings")
    parser.add_argument("--images", type=at_least(1), default=64, help="spread evenly over the classes")
    args = parser.parse_args()
    device = init_process().device
    images = list_images(args.data_path, args.split)
    for folder in args.tokenizer:
        tokenizer = load_tokenizer(read_tokenizer_config(folder / "config.yaml"), folder / "model.safetensors", device)
        crops = CenterCrops(images, tokenizer.image_size)
        batch = torch.stack([crops[i] for i in evenly_spaced(len(images), args.images)])
        shares = code_reach(tokenizer, tokenizer.encode(to_float(batch.to(device))))
        print(f"{folder}: " + ", ".join(f"{name} {share:.1%}" for name, share in shares.items()))


if __name__ == "__main__":
    main()
