"""FSDP: weights sharded over two processes train as on one, and leave the same checkpoints."""

from pathlib import Path

import pytest
import torch

from tests.support import toy
from tests.support.commands import train_ar
from tests.support.launch import run
from training.checkpoint_files import checkpoint_folder, load_checkpoint_weights, load_training_state
from training.fsdp import group_size
from training.logging import read_log
from utils.errors import UserError
from utils.weights import export_weights, read_state_dict

pytestmark = pytest.mark.slow

STEPS = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("sharded")
    toy.write_token_cache(path / "cache", 30)
    export_weights(path / "tokenizer", toy.tokenizer().state_dict())
    train(path, "one", 1)
    train(path, "sharded", 2, "training.fsdp=true", "training.gradient_accumulation_steps=2")
    return path


def train(folder: Path, name: str, processes: int, *overrides: str) -> None:
    """12 steps of 8 images with a moving average, validation and previews."""
    accumulation = 2 if "training.gradient_accumulation_steps=2" in overrides else 1
    batch = 8 // processes // accumulation
    config = toy.write_ar_config(folder / "ar.yaml", per_gpu_batch_size=batch, max_train_steps=STEPS, use_ema=True)
    command = train_ar(
        config,
        folder / "cache",
        folder / name,
        f"dataset.params.pretokenization_val={folder / 'cache'}",
        f"experiment.tokenizer_checkpoint={folder / 'tokenizer' / 'model.safetensors'}",
        "experiment.log_every=1",
        "experiment.keep_checkpoints=9",
        "optimizer.params.learning_rate=1e-3",
    )
    run(*command, *toy.NO_DROPOUT, *overrides, processes=processes)


def losses(folder: Path, key: str) -> list[float]:
    return [row[key] for row in read_log(folder) if key in row]


def assert_same_training(one: Path, two: Path) -> None:
    for key, last in (("loss", 4), ("val_loss", 1)):
        assert losses(two, key)[-last:] == pytest.approx(losses(one, key)[-last:], rel=1e-4)
    a, b = (checkpoint_folder(path, STEPS) for path in (one, two))
    for name in ("model", "ema"):
        weights = load_checkpoint_weights(a, name)
        for key, value in load_checkpoint_weights(b, name).items():
            torch.testing.assert_close(value, weights[key], atol=2e-4, rtol=1e-2)
    exported = read_state_dict(two / "pytorch_model.bin")
    assert all(torch.equal(v, exported[k]) for k, v in load_checkpoint_weights(b, "ema").items())


def test_sharded_training_is_the_training_of_one(folder):
    assert_same_training(folder / "one", folder / "sharded")
    one, two = (load_training_state(checkpoint_folder(folder / n, STEPS))["optimizer"] for n in ("one", "sharded"))
    assert one["param_groups"] == two["param_groups"]
    assert one["state"].keys() == two["state"].keys()
    for name, values in one["state"].items():
        for key, value in values.items():
            torch.testing.assert_close(two["state"][name][key], value, atol=1e-4, rtol=1e-2)
    assert list((folder / "sharded" / "previews").glob("*.png"))


@pytest.mark.parametrize(("source", "processes", "fsdp"), [("sharded", 1, "false"), ("one", 2, "true")])
def test_either_resumes_the_others_checkpoint(folder, source, processes, fsdp):
    name = f"resumed_{fsdp}"
    middle = checkpoint_folder(folder / source, 8)
    train(folder, name, processes, f"experiment.resume={middle}", f"training.fsdp={fsdp}")
    assert len(losses(folder / name, "loss")) == STEPS - 8
    assert_same_training(folder / "one", folder / name)


def test_without_an_average(folder):
    """Validation and previews then use the trained weights themselves, just before they are saved."""
    train(folder, "plain", 2, "training.fsdp=true", "training.use_ema=false", "experiment.save_every=4")
    assert losses(folder / "plain", "loss") == pytest.approx(losses(folder / "one", "loss"), rel=1e-4)
    assert not (checkpoint_folder(folder / "plain", STEPS) / "ema.safetensors").exists()


GATHERED = """
import torch, torch.distributed as dist
from tests.support import toy
from training.fsdp import shard

dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
model = toy.generator().train()
shard(model, model.blocks, "cpu", dtype=torch.bfloat16)
seen = {}
block = model.blocks[1]
block.register_forward_pre_hook(lambda m, x: seen.update(weight=m.attn.qkv.weight.dtype, rope=x[1].dtype))
block.mlp.register_forward_hook(lambda m, x, y: seen.update(added=y.dtype))
block.register_forward_hook(lambda m, x, y: seen.update(residual=y.dtype))
with torch.autocast("cpu", torch.bfloat16):
    loss = model.loss(torch.zeros(2, toy.NUM_CODES, dtype=torch.int64), torch.zeros(2, dtype=torch.int64))
loss.value.backward()
half, full = torch.bfloat16, torch.float32
assert seen == {"weight": half, "rope": full, "added": half, "residual": full}, seen
assert {p.dtype for p in model.parameters()} == {p.grad.dtype for p in model.parameters()} == {full}
dist.destroy_process_group()
"""


def test_gathered_weights_are_bf16_and_the_rest_is_not():
    run("-c", GATHERED)


def test_groups_of_processes_share_a_copy(folder):
    """Two copies of the weights, each on one process: gradients are averaged over both."""
    train(folder, "groups", 2, "training.fsdp=true", "training.fsdp_group=1")
    assert_same_training(folder / "one", folder / "groups")


def test_a_group_is_a_machine():
    assert group_size(None, 16, {"LOCAL_WORLD_SIZE": "8"}) == 8
    assert group_size(None, 8, {"LOCAL_WORLD_SIZE": "8"}) == 8
    assert group_size(None, 12, {"LOCAL_WORLD_SIZE": "8"}) == 12  # machines with 8 and 4
    assert group_size(None, 4, {}) == 4
    assert group_size(None, 8, {"LOCAL_WORLD_SIZE": "1"}) == 8  # one GPU a machine: no copy of all weights on each
    assert group_size(2, 8, {"LOCAL_WORLD_SIZE": "8"}) == 2
    with pytest.raises(UserError, match=r"training\.fsdp_group is 3, but 8 processes cannot"):
        group_size(3, 8, {})
