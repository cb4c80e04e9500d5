"""The codes that a generator learns: from token caches, or encoded from images during training."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from dataset.bad_files import BadFiles
from dataset.code_dataset import CachedCodes, CodeSource, RandomViews
from dataset.images import NoSuchSplit, list_images_together
from dataset.token_cache.metadata import UNKNOWN
from dataset.token_cache.reader import TokenCache, open_token_cache
from modeling.interfaces import CodeLayout
from train_generator.config import ARConfig
from utils.errors import UserError


class GeneratorData:
    """Training data, validation data if there is any, and the undecodable files met so far."""

    def __init__(self, config: ARConfig, layout: CodeLayout, num_classes: int, undecodable: set[int]):
        """undecodable: indices of training files, kept up to date. Raises UserError if the data do not fit."""
        params, limit = config.dataset.params, config.experiment.max_train_examples
        self.validation: CodeSource | None = None
        self.bad_files: BadFiles | None = None
        self.classes: Sequence[str]  # names of the training data's classes, by number
        self.tokenizer_sha256 = ""  # of the tokenizer that made the cached codes; empty if unknown
        if params.pretokenization:
            cache = _open_fitting_cache(params.pretokenization, layout, num_classes)
            self.classes = cache.classes
            self.training: CodeSource = CachedCodes(cache, limit)
            self.tokenizer_sha256 = cache_tokenizer(cache)
            if params.pretokenization_val:
                val_cache = _open_fitting_cache(params.pretokenization_val, layout, num_classes)
                _require_same_tokenizer(cache, val_cache)
                self.validation = CachedCodes(val_cache, classes=cache.classes)
            return
        if not params.data_path:
            raise UserError("dataset.params: set pretokenization to a token cache, or data_path to an image folder")
        images = list_images_together(params.data_path, params.train_split)
        if len(images.classes) > num_classes:
            raise UserError(
                f"{params.data_path} has {len(images.classes)} classes, model.generator {num_classes}: set"
                f" model.generator.condition_num_classes={len(images.classes)}"
            )
        self.classes = images.classes
        size = config.model.vq_model.image_size
        self.training = RandomViews(images, size, limit, params.ten_crop)
        report = Path(config.experiment.output_dir) / "undecodable.txt"
        self.bad_files = BadFiles(images, params.max_bad_fraction, report, undecodable)
        with suppress(NoSuchSplit):
            held_out = list_images_together(params.data_path, params.val_split).numbered_like(images)
            self.validation = RandomViews(held_out, size, ten_crop=params.ten_crop)


def cache_tokenizer(cache: TokenCache) -> str:
    """SHA-256 of the tokenizer that made the codes; empty if unknown."""
    made_by = cache.metadata.tokenizer_sha256 if cache.metadata else UNKNOWN
    return "" if made_by == UNKNOWN else made_by


def _open_fitting_cache(path: str, layout: CodeLayout, num_classes: int) -> TokenCache:
    """Raises UserError unless the cache's codes are what the generator predicts."""
    cache = open_token_cache(path)
    cache.require_fit(layout.num_codes, layout.codebook_size, num_classes)
    return cache


def _require_same_tokenizer(one: TokenCache, two: TokenCache) -> None:
    """Raise UserError if two caches are known to hold codes of different tokenizers."""
    made_by = [cache_tokenizer(cache) for cache in (one, two)]
    if all(made_by) and made_by[0] != made_by[1]:
        raise UserError(
            f"{one.path} and {two.path} were made with different tokenizers (SHA-256 {made_by[0][:12]} and"
            f" {made_by[1][:12]}): their codes mean different things"
        )
