"""The masked generators from images or a token cache to samples, with the published names of the scripts."""

import shutil

import numpy as np
import pytest
import torch

from modeling.build import load_generator
from modeling.interfaces import CodeLayout
from modeling.maskgit.settings import MaskGITConfig
from sampling.pipeline import Pipeline
from tests.support import toy
from tests.support.commands import sample_imagenet, train_ar
from tests.support.launch import run
from tests.support.toy.maskgit import NETWORKS, OVERRIDES, SIZES, masked_generator
from tests.support.trainings import generator_trainer
from training.logging import read_log
from utils.errors import UserError
from utils.weights import export_weights


@pytest.mark.slow
def test_train_sample_and_resume_by_the_published_scripts(tmp_path):
    cache, config = toy.write_token_cache(tmp_path / "cache"), toy.write_ar_config(tmp_path / "ar.yaml")
    _, *arguments = train_ar(config, cache, tmp_path / "out", *OVERRIDES)
    run("scripts/train_maskgit.py", *arguments)
    assert any("masked_share" in row for row in read_log(tmp_path / "out"))
    tokenizer = export_weights(tmp_path / "tokenizer", toy.tokenizer(init_std=0.3).state_dict())[1]
    images = []
    for batch_size, processes in ((3, 1), (4, 2)):
        output = tmp_path / f"samples{processes}"
        _, *arguments = sample_imagenet(config, tmp_path / "out" / "pytorch_model.bin", tokenizer, output, *OVERRIDES)
        run("sample_imagenet_titok.py", *arguments, f"sampling.batch_size={batch_size}", processes=processes)
        with np.load(f"{output}.npz", allow_pickle=False) as arrays:
            images.append(arrays["arr_0"].astype(int))
            assert arrays["arr_1"].tolist() == [i % toy.NUM_CLASSES for i in range(10)]
    assert images[0].shape == (10, toy.IMAGE_SIZE, toy.IMAGE_SIZE, 3)
    assert len(np.unique(images[0].reshape(10, -1), axis=0)) > 5
    assert np.abs(images[0] - images[1]).max() <= 1


@pytest.mark.parametrize("network", NETWORKS)
def test_images_are_encoded_during_training_and_the_folder_samples(tmp_path, network):
    images = toy.write_images(tmp_path / "images")
    tokenizer = export_weights(tmp_path / "tokenizer", toy.tokenizer(init_std=0.3).state_dict())[1]
    options = (
        f"model.generator.model_type={network}",
        "dataset.params.pretokenization=null",
        "dataset.params.pretokenization_val=null",
        f"dataset.params.data_path={images}",
        "dataset.params.ten_crop=false",
        f"experiment.tokenizer_checkpoint={tokenizer}",
        "experiment.generate_every=8",
        "training.max_train_steps=8",
    )
    trainer = generator_trainer(tmp_path, "out", *OVERRIDES, *options)
    trainer.run()
    assert any("val_loss" in row for row in read_log(tmp_path / "out"))
    assert len(list((tmp_path / "out" / "previews").glob("*.png"))) == 1
    shutil.move(tmp_path / "out", tmp_path / "moved")
    pipeline = Pipeline.from_pretrained(tmp_path / "moved", batch_size=2)
    drawn = pipeline.generate([0, 1, 2])
    assert drawn.shape == (3, 3, toy.IMAGE_SIZE, toy.IMAGE_SIZE)
    streamed = list(pipeline.stream([0, 1], every=1))
    assert len(streamed) == 4
    assert torch.equal(streamed[-1], drawn[:2])
    assert len(list(pipeline.with_settings(num_steps=2).stream([0], every=1))) == 2


def test_another_tokenizers_generator_or_cache_is_refused_with_one_line(tmp_path):
    other = masked_generator(layout=CodeLayout(toy.CODEBOOK_SIZE, 9))
    weights = export_weights(tmp_path / "other", other.state_dict())[1]
    generator = MaskGITConfig(**SIZES, condition_num_classes=toy.NUM_CLASSES)
    with pytest.raises(UserError, match=r"position_embeddings.weight is \(10, 32\) in the file, \(8, 32\) in"):
        load_generator(generator, CodeLayout(toy.CODEBOOK_SIZE, toy.NUM_CODES), weights)
    four_codes = "model.vq_model.num_latent_tokens=4"
    with pytest.raises(UserError, match="does not fit: codes per image 7 there, 4 in the configuration"):
        generator_trainer(tmp_path, "out", *OVERRIDES, four_codes)
