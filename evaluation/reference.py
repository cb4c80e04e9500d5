"""A reference of samples: what a file or folder holds, in words, and its features."""

from pathlib import Path

from accelerate.utils import broadcast_object_list

from evaluation.features import Extractor, Features, extract_features
from evaluation.fid import Statistics, read_statistics
from evaluation.images import Images, open_images
from utils.errors import UserError
from utils.npz import IMAGES, array_names, read_arrays

SPLIT = "split"  # array of a file that `evaluation.make_reference` wrote
# ADM's files (https://github.com/openai/guided-diffusion/tree/main/evaluations), by name.
ADM_FILES = {
    f"VIRTUAL_imagenet{name}.npz": "ADM's file: statistics of the whole training set, 10,000 images for"
    " precision and recall"
    for name in ("64_labeled", "128_labeled", "256_labeled", "512")
}


class Reference:
    """Stored statistics (`mu, sigma, mu_s, sigma_s`, as in ADM's VIRTUAL files) replace those of the images."""

    def __init__(self, path: str | Path, array: str | None = None):
        """path: .npz file or folder of images; array: see `open_images`. Raises UserError."""
        self.path = Path(path)
        folder = self.path.is_dir()
        self.stored: dict[str, Statistics] = {} if folder else read_statistics(path)
        only_statistics = self.stored and not {IMAGES, array} & {*array_names(path)}
        self.images: Images | None = None if only_statistics else open_images(path, array)
        split = None if folder else read_arrays(path, (SPLIT,)).get(SPLIT)
        self.split = None if split is None else str(split)

    @property
    def image_size(self) -> tuple[int, int] | None:
        """Height and width in pixels, if it holds images."""
        return None if self.images is None else tuple(self.images.shape[1:3])

    def describe(self) -> str:
        """Name, number of images, stored statistics, split: one line."""
        parts = [f"statistics of {', '.join(self.stored)} features"] if self.stored else []
        if self.images is not None:
            height, width = self.image_size
            parts.insert(0, f"{len(self.images)} images of {width}x{height}")
        known = ADM_FILES.get(self.path.name) if self.stored else None
        origin = known or (f"of the split '{self.split}'" if self.split else "the file does not say of which split")
        used = "stored statistics give FID" if "pool" in self.stored else "FID compares with these images"
        return f"{self.path}: {', '.join(parts)}; {origin}; {used}"

    def features(self, extractor: Extractor, batch_size: int) -> Features | None:
        """Features of the images on the main process; None on the others. All processes take part."""
        return extract_features(extractor, self.images, batch_size, "reference")

    def require_network(self, extractor: Extractor | type[Extractor]) -> None:
        """Raise UserError if another network made the stored statistics of pool features.

        extractor: its name and its number of features are read, so the class of one will do.
        """
        width = len(self.stored["pool"].mu) if "pool" in self.stored else extractor.num_features
        if width != extractor.num_features:
            raise UserError(
                f"{self.path} has statistics of {width} pool features, {extractor.name} has {extractor.num_features}:"
                " another network made them"
            )

    def pool_statistics(self, extractor: Extractor, batch_size: int) -> Statistics:
        """Statistics of the pool features, on every process; all take part. Raises UserError on all of them."""
        self.require_network(extractor)
        if "pool" in self.stored:
            return self.stored["pool"]
        result: Statistics | UserError | None = None
        try:
            features = self.features(extractor, batch_size)
            result = features and Statistics.from_features(features.pool)
        except UserError as error:  # of the main process: the others wait for what it found
            result = error
        (result,) = broadcast_object_list([result])
        if isinstance(result, UserError):
            raise result
        return result
