"""Train the small classifier of `modeling/frozen/small_classifier.py` on a data set's training split.

python -m evaluation.train_classifier --data_path data/fashion_mnist --img_size 32 --output classifier.safetensors
"""

import argparse
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from dataset.image_dataset import CenterCrops
from dataset.images import ImageList, list_images, to_float
from modeling.frozen.small_classifier import Classifier, read_classifier, save_classifier
from utils.arguments import HelpFormatter, at_least, file_path, number
from utils.errors import entry_point
from utils.output_file import output_file
from utils.process import init_process
from utils.progress import tqdm
from utils.workers import Loader

LEARNING_RATE = 2e-3


def load_all(images: ImageList, size: int, num_workers: int) -> tuple[Tensor, Tensor]:
    """All centre crops (n, 3, S, S) uint8 and labels (n,), in memory."""
    loader = Loader(CenterCrops(images, size), 512, num_workers=num_workers)
    crops = torch.cat(list(tqdm(loader, desc=f"reading {images.root.name}", mininterval=1.0)))
    return crops, torch.from_numpy(images.labels)


@torch.no_grad()
def accuracy(network: Classifier, crops: Tensor, labels: Tensor, device: torch.device) -> float:
    network.eval()
    predicted = torch.cat([network(to_float(x.to(device))).argmax(1).cpu() for x in crops.split(512)])
    return float((predicted == labels).double().mean())


def train(
    crops: Tensor, labels: Tensor, num_classes: int, epochs: float, batch_size: int, device: torch.device, seed: int
) -> Classifier:
    """Train on uint8 crops (n, 3, S, S), mirrored at random like the views of generator training."""
    torch.manual_seed(seed)
    network = Classifier(num_classes).to(device).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=0.01, fused=True)
    steps = max(1, math.ceil(epochs * len(crops) / batch_size))
    order = torch.cat([torch.randperm(len(crops)) for _ in range(math.ceil(epochs))])
    for step in tqdm(range(steps), desc="classifier", mininterval=1.0):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * step / steps))
        chosen = order[step * batch_size : (step + 1) * batch_size]
        x = to_float(crops[chosen].to(device))
        mirrored = torch.rand(len(x), 1, 1, 1, device=device) < 0.5
        loss = F.cross_entropy(network(torch.where(mirrored, x.flip(-1), x)), labels[chosen].to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network


@entry_point
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], formatter_class=HelpFormatter)
    parser.add_argument("--data_path", type=file_path, required=True, help="folder with train/ and val/")
    parser.add_argument("--img_size", type=at_least(1), default=32, help="side of the images in pixels")
    parser.add_argument("--output", type=file_path, required=True, help="safetensors file to write")
    parser.add_argument("--epochs", type=number(float, above=0), default=4, help="passes over the training split")
    parser.add_argument("--batch_size", type=at_least(1), default=128)
    parser.add_argument(
        "--seed", type=number(int, min=0, below=2**32), default=0, help="seed of weights and data order"
    )
    parser.add_argument("--num_workers", type=at_least(0), default=0, help="decoding processes")
    parser.add_argument(
        "--max_images", type=at_least(1), help="learn at most this many, evenly spaced over the classes"
    )
    args = parser.parse_args()
    if args.output.is_file():
        read_classifier(args.output)
        print(f"{args.output} exists already: nothing to do")
        return
    with output_file(args.output, "--output", b""):
        train_and_save(args)


def train_and_save(args: argparse.Namespace) -> None:
    device = init_process().device
    training = list_images(args.data_path, "train")
    held_out = list_images(args.data_path, "val").numbered_like(training)
    learned = training.evenly_spaced(args.max_images) if args.max_images else training
    crops, labels = load_all(learned, args.img_size, args.num_workers)
    network = train(crops, labels, len(training.classes), args.epochs, args.batch_size, device, args.seed)
    score = accuracy(network, *load_all(held_out, args.img_size, args.num_workers), device)
    save_classifier(args.output, network, args.img_size, score)
    print(f"wrote {args.output}: accuracy {100 * score:.1f} % on {len(held_out)} validation images")


if __name__ == "__main__":
    main()
