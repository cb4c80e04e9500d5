"""What can be tested for a GPU without one: no operation mixes devices, no recorded operation waits for a value."""

from collections.abc import Callable
from itertools import islice

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.training_memory import on_pretended_cuda, pretended_cuda
from modeling.build import build_generator, build_tokenizer, cast_parameters, code_layout
from modeling.layers.decode_attention import plain_attention
from modeling.rar import cache as rar_cache
from sampling.autoregressive import AutoregressiveDecoder, _SteppedBatch
from sampling.masked import MaskedDecoder, MaskedSettings, masked_counts
from sampling.settings import SamplingSettings
from tests.support.paths import ROOT
from tests.support.toy.maskgit import NETWORKS, masked_generator
from tests.support.toy.rar import rar_generator
from train_generator.config import ARConfig
from train_tokenizer.config import TokenizerConfig
from train_tokenizer.discriminator import Discriminator
from train_tokenizer.losses import hinge_discriminator_loss, hinge_generator_loss
from utils.config import load_config
from utils.images import to_bytes


class NothingFromTheHost(TorchDispatchMode):
    """Fails at an operation with a tensor that is not on the GPU."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        devices = {t.device.type for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        assert devices <= {"cuda"}, function
        return function(*args, **(kwargs or {}))


def checked(step: Callable[[], None]) -> Callable[[], None]:
    """`step`, which must touch nothing of the host, as if it were recorded."""

    def launch() -> None:
        with NothingFromTheHost():
            step()

    return launch


def test_pretending_finds_mistakes():
    with pretended_cuda("no"):
        ours, other = torch.zeros(2, device="cuda"), torch.zeros(2)
        with pytest.raises(RuntimeError, match="device"):
            ours + other
        with pytest.raises(DataDependentOutputException):
            float(ours[0])
        with pytest.raises(AssertionError), NothingFromTheHost():
            other.to("cuda")
    assert torch.zeros(1).item() == 0
    assert not torch.is_autocast_enabled("cuda")


@pytest.mark.parametrize(
    "changes",
    [{}, {"temperature": 0.0}, {"top_k": 5, "top_p": 0.9}, {"guidance_scale": 0.0}, {"soft_guidance": True}],
)
def test_decoding_can_be_recorded(changes):
    """A CUDA graph reads nothing from the host and waits for nothing."""
    model = load_config(ARConfig, "", [f"config={ROOT}/configs/fashion_mnist/ar.yaml"]).model
    generator = build_generator(model.generator, code_layout(model.vq_model)).eval()
    with pretended_cuda("no"), torch.no_grad():
        on_pretended_cuda(generator)
        cast_parameters(generator, torch.bfloat16)
        settings = SamplingSettings.from_config(model.generator, **changes)
        decoder = AutoregressiveDecoder(generator, settings)
        batch = _SteppedBatch(decoder, 3, torch.device("cuda"), plain_attention)
        classes = torch.zeros(2, dtype=torch.int64, device="cuda")
        list(islice(batch.run(classes, batch.noise[:2], checked(batch.step)), 4))
        assert batch.codes.device.type == "cuda"
        assert batch.cache.keys.dtype == torch.bfloat16


def test_decoding_of_rar_can_be_recorded():
    """In bfloat16, with runs of modulations that are shorter than the sequence."""
    generator = rar_generator()
    with pretended_cuda("no"), torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(rar_cache, "MODULATION_BYTES", 3 * 2 * 6 * 6 * 32 * 2)  # three positions of six rows
        on_pretended_cuda(generator)
        cast_parameters(generator, torch.bfloat16)
        decoder = AutoregressiveDecoder(generator, SamplingSettings(4.0, 1.0))
        batch = _SteppedBatch(decoder, 3, torch.device("cuda"), plain_attention)
        list(batch.run(torch.zeros(2, dtype=torch.int64, device="cuda"), batch.noise[:2], checked(batch.step)))
        assert batch.cache.modulations.shape[2] == 3
        assert batch.cache.modulations.dtype == torch.bfloat16


@pytest.mark.parametrize("network", NETWORKS)
def test_masked_decoding_stays_on_its_device(network):
    """And waits for no value of it."""
    generator = masked_generator(network)
    with pretended_cuda("no"), torch.no_grad():
        on_pretended_cuda(generator)
        cast_parameters(generator, torch.bfloat16)
        decoder = MaskedDecoder(generator, MaskedSettings(3, 4.0, temperature=1.0))
        classes, noise = torch.zeros(2, dtype=torch.int64, device="cuda"), torch.zeros(2, *decoder.noise_shape)
        noise, codes = noise.double().cuda(), torch.full((2, decoder.num_codes), -1, device="cuda")
        places = torch.arange(decoder.num_codes, device="cuda").expand_as(codes)
        with NothingFromTheHost():
            for step, left in enumerate(masked_counts(decoder.num_codes, 3)):
                codes, places = decoder.sampling_step(step, left, codes, places, classes, noise[:, step])
        assert codes.device.type == "cuda"
        assert places.shape == (2, 0)


@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
def test_tokenizer_training_stays_on_its_device(precision):
    config = load_config(TokenizerConfig, "", [f"config={ROOT}/configs/fashion_mnist/tokenizer_stage1.yaml"])
    tokenizer, discriminator = build_tokenizer(config.model.vq_model).train(), Discriminator()
    tokenizer.quantize.clustering = True
    with pretended_cuda(precision):
        on_pretended_cuda(tokenizer)
        on_pretended_cuda(discriminator)
        images = torch.zeros(2, 3, tokenizer.image_size, tokenizer.image_size, device="cuda")
        output = tokenizer(images)
        sum(term.weight * term.value for term in output.losses.values())
        hinge_generator_loss(discriminator(output.reconstruction))
        hinge_discriminator_loss(discriminator(images), discriminator(output.reconstruction))
        tokenizer.quantize.update_codebook()
        codes = tokenizer.eval().encode(images)
        assert to_bytes(tokenizer.decode(codes)).device.type == "cuda"
