"""Share of the pixel change caused by one code on its own, earlier and later patches.

python -m evaluation.code_influence --data_path data/fashion_mnist --tokenizer output/quickstart/tokenizer_stage1
"""

import argparse

import torch
from einops import reduce
from torch import Tensor

from dataset.data_order import evenly_spaced
from dataset.image_dataset import CenterCrops
from dataset.images import list_images, to_float
from modeling.build import load_pretrained_tokenizer
from modeling.interfaces import Tokenizer
from utils.arguments import HelpFormatter, at_least, file_path
from utils.atomic import write_json
from utils.errors import UserError, entry_point
from utils.output_file import output_file
from utils.process import init_process

NUMBERS = b'{\n  "'  # how a file of --json begins


@torch.no_grad()
def code_influence(tokenizer: Tokenizer, codes: Tensor) -> dict[str, float]:
    """Replace one image code at a time by another image's; where do the pixels change?

    tokenizer: with codes on a grid. codes: (B, T), B >= 2.
    Returns shares of the squared change: `own` on the patch at the code's place in the grid, `earlier` on the
    patches before it, `later` on those after it. A causal decoder has `earlier` = 0. All are 0 if nothing changes.
    """
    (rows, columns), num_prefix = tokenizer.layout.grid, tokenizer.layout.num_prefix
    original, others = tokenizer.decode(codes), codes.roll(1, 0)
    sums = torch.zeros(3, dtype=torch.float64)
    for place in range(rows * columns):
        changed = codes.clone()
        changed[:, num_prefix + place] = others[:, num_prefix + place]
        difference = (tokenizer.decode(changed) - original).square()
        patches = reduce(difference, "b c (h p1) (w p2) -> (h w)", "sum", h=rows, w=columns).double().cpu()
        sums += torch.stack([patches[place], patches[:place].sum(), patches[place + 1 :].sum()])
    shares = sums / sums.sum().clamp_min(torch.finfo(sums.dtype).tiny)
    return dict(zip(("own", "earlier", "later"), shares.tolist(), strict=True))


@entry_point
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], formatter_class=HelpFormatter)
    parser.add_argument("--data_path", type=file_path, required=True, help="data set: docs/data.md")
    parser.add_argument("--split", default="val", help="part of --data_path")
    parser.add_argument("--tokenizer", type=file_path, nargs="+", required=True, help="output folders of trainings")
    parser.add_argument("--images", type=at_least(2), default=64, help="number of images, evenly spaced over classes")
    parser.add_argument("--json", type=file_path, help="also write the shares of each tokenizer to this file")
    args = parser.parse_args()
    with output_file(args.json, "--json", NUMBERS):
        measure(args)


def measure(args: argparse.Namespace) -> None:
    device = init_process().device
    images = list_images(args.data_path, args.split)
    rows = {}
    for folder in args.tokenizer:
        tokenizer = load_pretrained_tokenizer(folder, device)
        if tokenizer.layout.grid is None:
            raise UserError(f"{folder}: the codes of this tokenizer have no place in the image")
        crops = CenterCrops(images, tokenizer.image_size)
        batch = torch.stack([crops[i] for i in evenly_spaced(len(images), args.images)])
        rows[str(folder)] = shares = code_influence(tokenizer, tokenizer.encode(to_float(batch.to(device))))
        print(f"{folder}: " + ", ".join(f"{name} {share:.1%}" for name, share in shares.items()))
    if args.json:
        write_json(args.json, rows)


if __name__ == "__main__":
    main()
