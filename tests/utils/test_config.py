"""Configurations: overrides, and errors that name the mistake."""

from dataclasses import dataclass, field

import pytest
from omegaconf import OmegaConf

from tests.support.paths import ROOT
from train_generator.config import ARConfig
from train_tokenizer.config import TokenizerConfig
from utils.config import compose, help_lines, load_config, option
from utils.errors import UserError
from utils.yaml_files import read_yaml, with_bases


@pytest.fixture(autouse=True)
def in_repository(monkeypatch):
    monkeypatch.chdir(ROOT)


def load_ar(*arguments: str) -> ARConfig:
    return load_config(ARConfig, "", ["config=configs/alitok_b.yaml", *arguments])


def test_overrides_reach_every_kind_of_key():
    config = load_ar(
        "training.per_gpu_batch_size=64",
        "experiment.resume=auto",
        "training.max_grad_norm=null",
        "model.vq_model.codebook_size=1024",
        "optimizer.params.learning_rate=1e-3",
    )
    assert config.training.per_gpu_batch_size == 64
    assert config.experiment.resume == "auto"
    assert config.training.max_grad_norm is None
    assert load_ar("lr_scheduler.params.end_lr=${optimizer.params.weight_decay}").lr_scheduler.params.end_lr == 0.03
    assert config.model.vq_model.layout.codebook_size == 1024
    assert config.lr_scheduler.params.learning_rate == 1e-3  # follows the optimizer's
    stage1 = load_config(TokenizerConfig, "", ["config=configs/tokenizer_stage1.yaml", "phases.1.steps=7"])
    assert [p.steps for p in stage1.phases] == [50_000, 7, 100_000]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("training.per_gpu_batchsize=3", "'training.per_gpu_batchsize'.*did you mean 'training.per_gpu_batch_size'"),
        ("traning.seed=3", "'traning.*did you mean 'training"),
        ("model.generator.hiden_size=3", "did you mean 'model.generator.hidden_size'"),
        ("training.seed=soon", "training.seed"),
        ("model.generator.name=mar", "unknown generator 'mar'"),
        ("config=configs/alitok_bb.yaml", "not found.*did you mean 'configs/alitok_b.yaml'"),
        ("model.generator.code_order=random", r"code_order is 'random' .*choose raster \| reversed \| shuffled"),
        ("sampling.class_ids=[1.5]", "sampling.class_ids"),
        ("training.mixed_precision=bf8", "training.mixed_precision is 'bf8'; did you mean 'bf16'"),
        ("--batch", "cannot read the argument '--batch'"),
        ("training=null", "training"),
        ("training.per_gpu_batch_size=0", "training.per_gpu_batch_size is 0; it must be at least 1"),
        ("lr_scheduler.params.end_lr=${optimizer.parms.x}", "end_lr"),
        ("training.max_grad_norm=0", "training.max_grad_norm is 0.0; it must be above 0"),
        ("training.seed=4294967296", "training.seed is 4294967296; it must be below 4294967296"),
        ("training.ema_decay=1.5", "training.ema_decay is 1.5; it must be at most 1"),
        ("optimizer.params.beta2=1", "optimizer.params.beta2 is 1.0; it must be below 1"),
    ],
)
def test_mistakes_are_named(argument, message):
    with pytest.raises(UserError, match=message) as caught:
        load_ar(argument)
    assert "\n" not in str(caught.value)


def test_misspelt_key_in_a_file(tmp_path):
    file = tmp_path / "x.yaml"
    file.write_text("experiment: {output_dir: o}\nphases: [{name: a, step: 5}]\n")
    with pytest.raises(UserError, match=r"'step'.*did you mean 'steps'"):
        load_config(TokenizerConfig, "", [f"config={file}"])
    file.write_text("experiment: [")
    with pytest.raises(UserError, match="no valid YAML"):
        load_config(TokenizerConfig, "", [f"config={file}"])


@dataclass
class Inner:
    counts: list[int] = option([1, 2], "some counts", min=1)
    mode: str = option("fast", "how", choices=("fast", "exact"))


@dataclass
class Outer(Inner):
    counts: list[int] = field(default_factory=lambda: [3])  # another default, the same limits
    parts: list[Inner] = option([], "a list of sections")
    size: float = option(1.0, "a size", above=0, max=2)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("counts=[1,0]", "counts is 0; it must be at least 1"),
        ("mode=exat", "mode is 'exat'; did you mean 'exact'"),
        ("parts=[{counts: [5]}, {mode: slow}]", "parts.1.mode is 'slow'"),
        ("size=0", "size is 0.0; it must be above 0"),
        ("size=2.5", "size is 2.5; it must be at most 2"),
    ],
)
def test_limits_belong_to_the_option(override, message):
    with pytest.raises(UserError, match=message):
        compose(Outer, OmegaConf.create(), [override], "the test")
    assert compose(Outer, OmegaConf.create(), ["size=2"], "the test").counts == [3]


def test_help_explains_each_option():
    lines = list(help_lines(OmegaConf.structured(Outer)))
    assert any("counts: [3]" in line and line.endswith("# some counts (at least 1)") for line in lines)
    assert any("mode: fast" in line and line.endswith("# how (fast | exact)") for line in lines)
    assert "  # counts: some counts (at least 1)" in lines[lines.index("parts:  # a list of sections; each has") :]


def test_an_unquoted_no_is_a_word(tmp_path):
    file = tmp_path / "x.yaml"
    file.write_text("training: {mixed_precision: no}\nexperiment: {output_dir: o}\n")
    assert load_config(ARConfig, "", [f"config={file}"]).training.mixed_precision == "no"


def test_a_file_says_what_differs_from_its_base(tmp_path):
    (tmp_path / "base.yaml").write_text("size: 1.5\nmode: exact\n")
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / "own.yaml").write_text("base: ../base.yaml\nsize: 0.5\n")
    config = load_config(Outer, "", [f"config={tmp_path / 'deeper' / 'own.yaml'}", "counts=[4]"])
    assert (config.size, config.mode, config.counts) == (0.5, "exact", [4])
    (tmp_path / "lost.yaml").write_text("base: nowhere.yaml\n")
    with pytest.raises(UserError, match=r"configuration file not found: .*nowhere.yaml"):
        load_config(Outer, "", [f"config={tmp_path / 'lost.yaml'}"])


def test_a_base_is_one_other_file(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, base in (("own", "~/deeper/other.yaml"), ("one", "two.yaml"), ("two", "./one.yaml"), ("list", "[a, b]")):
        (tmp_path / f"{name}.yaml").write_text(f"base: {base}\nsize: 0.5\n")
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / "other.yaml").write_text("mode: exact\n")
    assert read_yaml(tmp_path / "own.yaml") == {"mode": "exact", "size": "0.5"}
    assert with_bases("~/own.yaml") == [tmp_path / "own.yaml", tmp_path / "deeper" / "other.yaml"]
    for read in (read_yaml, with_bases):
        with pytest.raises(UserError, match=r"two.yaml: base ./one.yaml leads back to this file"):
            read(tmp_path / "one.yaml")
        with pytest.raises(UserError, match=r"list.yaml: base is \['a', 'b'\]: name one YAML file"):
            read(tmp_path / "list.yaml")


def test_keys_that_moved_name_their_new_place():
    arguments = ["config=configs/tokenizer_stage1.yaml", "losses.prefix_weight=5"]
    with pytest.raises(UserError, match=r"'losses.prefix_weight' .* has no use here: set model.vq_model.prefix_weight"):
        load_config(TokenizerConfig, "", arguments)


@dataclass
class Typed:
    text: str = option("x", "any text")
    maybe: str | None = option(None, "text or nothing")
    texts: list[str] = option([], "several texts")
    count: int = option(1, "a number")
    rates: list[float] = option([], "several numbers", min=0)
    on: bool = option(False, "a switch")
    file: str = option("none", "an input", path="read")
    out: str = option("none", "an output", path="write")


TEXTS = ("001", "010", "2024_11_21", "12:30:45", "1e3", "695e0514", "on", "No", "0x1F", ".5", "=", "[a", "{b}")


@pytest.mark.parametrize("text", [*TEXTS, "exp #1", "a: b", "- c", " d", "'", "@e", "null"])
def test_text_on_the_command_line_stays_what_was_typed(text):
    config = compose(Typed, OmegaConf.create(), [f"text={text}"], "the test")
    assert config.text == text
    quoted = compose(Typed, OmegaConf.create(), [f'maybe="{text}"'], "the test")
    assert quoted.maybe == text


@pytest.mark.parametrize("text", [*TEXTS[:-2], '"exp #1"', "'null'"])
def test_text_in_a_file_stays_what_was_typed(tmp_path, text):
    file = tmp_path / "x.yaml"
    file.write_text(f"text: {text}  # a comment\nmaybe: {text}\ntexts: [{text}, b]\n")
    config = load_config(Typed, "", [f"config={file}"])
    assert config.text == config.maybe == config.texts[0] == text.strip("\"'")


def test_other_keys_still_have_their_types(tmp_path):
    file = tmp_path / "x.yaml"
    file.write_text("count: 010\nrates: [1e-3, 2]\non: yes\nmaybe: null\n")
    config = load_config(Typed, "", [f"config={file}"])
    assert (config.count, config.rates, config.on, config.maybe) == (10, [0.001, 2.0], True, None)
    config = load_config(Typed, "", [f"config={file}", "rates=[3, 1e2]", "on=off", "maybe=~"])
    assert (config.rates, config.on, config.maybe) == ([3.0, 100.0], False, None)


def test_what_may_be_a_comment_or_text_is_asked_for(tmp_path):
    file = tmp_path / "x.yaml"
    file.write_text("text: exp #2\n")
    with pytest.raises(UserError, match=r"x.yaml .* is '#2' a part of 'exp'"):
        load_config(Typed, "", [f"config={file}"])
    file.write_text("text: a\ntext: b\n")
    with pytest.raises(UserError, match=r"x.yaml .*'text' twice"):
        load_config(Typed, "", [f"config={file}"])


@pytest.mark.parametrize("number", ["nan", "inf", "-inf", "-1"])
def test_ranges_hold_for_lists_and_refuse_what_is_no_number(number):
    with pytest.raises(UserError, match=f"rates is {number}.*; it must be"):
        compose(Typed, OmegaConf.create(), [f"rates=[1, {number}]"], "the test")


def test_paths_in_a_file_are_looked_for_here_and_then_beside_the_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "configs").mkdir()
    file = tmp_path / "configs" / "x.yaml"
    file.write_text("file: w.bin\nout: w.bin\ntext: w.bin\n")
    (tmp_path / "configs" / "w.bin").touch()
    config = load_config(Typed, "", ["config=configs/x.yaml"])
    assert (config.file, config.out, config.text) == ("configs/w.bin", "w.bin", "w.bin")
    assert load_config(Typed, "", ["config=configs/x.yaml", "file=v.bin"]).file == "v.bin"
    (tmp_path / "w.bin").touch()
    assert load_config(Typed, "", ["config=configs/x.yaml"]).file == "w.bin"
    config = load_config(Typed, "", ["config=configs/x.yaml", "file=~/a", "out=~/b", "text=~/c"])
    assert (config.file, config.out, config.text) == (f"{tmp_path}/home/a", f"{tmp_path}/home/b", "~/c")
