"""Upload to a local server with the hub's protocol, and load from it; one line for each fault."""

import shutil

import huggingface_hub.constants as constants
import pytest
import torch
import yaml

from dataset.class_names import class_names
from hub.push import push_models, push_to_hub, write_repository
from modeling.build import load_pretrained_generator, load_pretrained_tokenizer
from sampling.pipeline import Pipeline
from tests.support import toy
from tests.support.hub_server import READER
from tests.support.trainings import generator_trainer
from training.checkpoint_files import checkpoint_step, list_checkpoints
from utils.errors import UserError
from utils.pretrained import local_folder
from utils.weights import export_weights, read_state_dict


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The output folder of a short generator training, with its tokenizer."""
    folder = tmp_path_factory.mktemp("trained")
    tokenizer = export_weights(folder / "tokenizer", toy.tokenizer(init_std=0.3).state_dict())[1]
    generator_trainer(folder, "ar", f"experiment.tokenizer_checkpoint={tokenizer}", "training.use_ema=false").run()
    return folder / "ar"


def front_matter(card: str) -> dict:
    return yaml.safe_load(card.split("---\n")[1])


def test_a_training_comes_back_from_the_hub(server, trained):
    url = push_to_hub(trained, "me/pictures", license="cc-by-4.0")
    assert url.startswith(f"{server.address}/me/pictures/commit/")
    files = server.files["me/pictures"]
    assert {*files} == {
        *("README.md", "config.yaml", "model.safetensors", "tokenizer.safetensors"),
        *("classes.json", "training.json", "samples.png", "curves.png"),
    }
    assert class_names(local_folder("me/pictures"), 4) == ["a", "b", "c", "d"]
    local, loaded = Pipeline.from_pretrained(trained), Pipeline.from_pretrained("me/pictures")
    assert torch.equal(local.generate([0, 1, 2]), loaded.generate([0, 1, 2]))
    generator, tokenizer = load_pretrained_generator("me/pictures"), load_pretrained_tokenizer("me/pictures")
    for model, name in ((generator, "model"), (tokenizer, "tokenizer")):
        written = read_state_dict(trained / f"{name}.safetensors")
        assert all(torch.equal(value, written[key]) for key, value in model.state_dict().items())
    assert not list(trained.parent.glob("hub_*"))


def test_the_card_tells_the_facts_of_the_training(trained, tmp_path):
    write_repository(trained, tmp_path / "repository", "me/pictures", "cc-by-4.0")
    card = (tmp_path / "repository" / "README.md").read_text()
    assert front_matter(card) == {"license": "cc-by-4.0", "tags": ["image-generation", "alitok"]}
    assert "# pictures\n" in card
    assert "Generator `alitok`: images of 16x16 pixels in 4 classes, with its tokenizer" in card
    assert "7 codes out of 32, 3 of a prefix and 2x2 of a grid" in card
    for row in ("| training images | 24 |", "| steps | 8 |", "| images a step | 8 |", "| hardware | 1 x CPU |"):
        assert row in card
    assert "| passes over the images | 2.7 |" in card
    assert "`val_loss` (nats per code)" in card
    assert "at step 8 |" in card
    assert 'Pipeline.from_pretrained("me/pictures")' in card
    assert "0 a, 1 b, 2 c, 3 d" in card
    assert "![samples](samples.png)" in card


def test_a_checkpoint_has_the_facts_of_its_training(trained, tmp_path):
    checkpoint = list_checkpoints(trained)[0]
    write_repository(checkpoint, tmp_path / "repository", "me/pictures")
    names = {path.name for path in (tmp_path / "repository").iterdir()}
    assert {"classes.json", "training.json", "curves.png", "tokenizer.safetensors"} <= names
    card = (tmp_path / "repository" / "README.md").read_text()
    assert f"| steps | {checkpoint_step(checkpoint)} |" in card
    assert "0 a, 1 b, 2 c, 3 d" in card


def test_models_in_memory(server):
    push_models("me/models", toy.tokenizer(), toy.generator())
    images = Pipeline.from_pretrained("me/models").generate([0])
    assert images.shape == (1, 3, toy.IMAGE_SIZE, toy.IMAGE_SIZE)
    card = server.files["me/models"]["README.md"].decode()
    assert "license" not in front_matter(card)
    assert "No licence is stated" in card
    assert "## Training" not in card


def test_a_tokenizer(server):
    tokenizer = toy.tokenizer()
    push_models("team/tokenizer", tokenizer, private=True)
    assert server.visibility["team/tokenizer"] == "private"
    assert {*server.files["team/tokenizer"]} == {"README.md", "config.yaml", "model.safetensors"}
    assert front_matter(server.files["team/tokenizer"]["README.md"].decode())["tags"] == ["image-tokenizer", "alitok"]
    images = torch.rand(2, 3, toy.IMAGE_SIZE, toy.IMAGE_SIZE)
    assert torch.equal(load_pretrained_tokenizer("team/tokenizer").encode(images), tokenizer.encode(images))


def test_a_generator_without_its_tokenizer(server, trained, tmp_path, capfd, pretrained):
    folder = shutil.copytree(trained, tmp_path / "ar")
    (folder / "tokenizer.safetensors").unlink()
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace(str(trained.parent), "/nowhere"))
    push_to_hub(folder, "me/generator")
    assert "the repository gets the generator only" in capfd.readouterr().err
    assert 'tokenizer="FILE_OR_HUB_ID"' in server.files["me/generator"]["README.md"].decode()
    tokenizer = pretrained / "tokenizer" / "model.safetensors"
    assert len(Pipeline.from_pretrained("me/generator", tokenizer=tokenizer).generate([0])) == 1


def test_a_card_of_ones_own_and_another_revision(server, trained, tmp_path):
    push_to_hub(trained, "me/pictures")
    first = server.commit_of("me/pictures")
    write_repository(trained, tmp_path / "repository", "me/pictures")
    (tmp_path / "repository" / "README.md").write_text("---\ntags: [mine]\n---\nMy own words.\n")
    push_to_hub(tmp_path / "repository", "me/pictures")
    assert server.files["me/pictures"]["README.md"].endswith(b"My own words.\n")
    newest = server.commit_of("me/pictures")
    assert newest != first
    assert len(Pipeline.from_pretrained(f"me/pictures@{newest}").generate([0])) == 1
    with pytest.raises(UserError, match=r"me/pictures@v2 is neither .*: the repository has no such revision"):
        Pipeline.from_pretrained("me/pictures@v2")


def test_faults_of_an_upload(server, trained, monkeypatch, refusal):
    def message(*arguments: str) -> str:
        return refusal("hub/push.py", trained, *arguments)

    assert "'pictures' is no name of a repository on the hub" in message("pictures")
    monkeypatch.setenv("HF_TOKEN", READER)
    assert "was not uploaded to me/pictures: this login may not do that (403)" in message("me/pictures")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "or hides it from this login: check the name, or log in with `hf auth login`" in message("me/pictures")
    monkeypatch.delenv("HF_TOKEN")
    assert "not logged in to the Hugging Face hub: log in with `hf auth login`" in message("me/pictures")
    monkeypatch.setenv("HF_TOKEN", "hf_writer")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in message("me/pictures")
    assert server.files == {}


def test_faults_of_a_download(server, trained, monkeypatch):
    with pytest.raises(UserError, match=r"me/nothing is neither .*: the hub has no such repository, or hides it"):
        Pipeline.from_pretrained("me/nothing")
    push_to_hub(trained, "me/pictures")
    Pipeline.from_pretrained("me/pictures")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody answers there
    assert len(Pipeline.from_pretrained("me/pictures").generate([0])) == 1  # the local copy
    with pytest.raises(UserError, match=r"me/other is neither .*: the hub cannot be reached, and there is no complete"):
        Pipeline.from_pretrained("me/other")
    with pytest.raises(UserError, match=r"was not uploaded to me/pictures: the hub cannot be reached .*check the net"):
        push_to_hub(trained, "me/pictures")


def test_the_command_writes_a_folder(trained, tmp_path, program, refusal):
    target = tmp_path / "repository"
    code, out, _ = program("hub/push.py", trained, "me/pictures", "--output", target)
    assert code == 0
    assert (
        "README.md, classes.json, config.yaml, curves.png, model.safetensors, samples.png, tokenizer.safetensors" in out
    )
    assert len(Pipeline.from_pretrained(target).generate([0])) == 1
    assert "holds files: name a new folder" in refusal("hub/push.py", trained, "me/pictures", "--output", target)
    (tmp_path / "bare").mkdir()
    shutil.copy(trained / "model.safetensors", tmp_path / "bare")
    assert "has no config.yaml: name the output folder of a training" in refusal(
        "hub/push.py", tmp_path / "bare", "me/pictures", "--output", tmp_path / "other"
    )
