"""SISGAN's networks against papers' counts, the port's key names and its arithmetic written out by hand."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from common.blocks import frozen_prefixes
from common.errors import UserError
from simgan.sisgan import SISGANDiscriminator, SISGANGenerator
from tests.agree import agree

pytestmark = pytest.mark.usefixtures("float64")

VGG_CONVS, VGG_POOLS = (0, 3, 7, 10, 14, 17, 20, 23, 26, 29), (6, 13)


def norm(key: str) -> set[str]:
    return {f"{key}.{leaf}" for leaf in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")}


def body_keys() -> set[str]:
    """Everything but the encoder, from the list of the released files."""
    keys = {"residual_blocks.0.weight", "decoder.1.weight", "decoder.5.weight", "decoder.8.weight", "decoder.8.bias"}
    keys |= {"mu.0.weight", "log_sigma.0.weight"} | norm("residual_blocks.1") | norm("decoder.2") | norm("decoder.6")
    for unit in (f"residual_blocks.{i}.encoder" for i in (2, 3, 4, 5)):
        keys |= {f"{unit}.0.weight", f"{unit}.3.weight"} | norm(f"{unit}.1") | norm(f"{unit}.4")
    return keys


def conv_keys() -> set[str]:
    keys = {"encoder.0.weight", "encoder.0.bias", "encoder.2.weight", "encoder.5.weight"}
    return body_keys() | keys | norm("encoder.3") | norm("encoder.6")


def vgg_keys(prefix: str = "encoder") -> set[str]:
    keys = {f"{prefix}.{i}.{leaf}" for i in VGG_CONVS for leaf in ("weight", "bias")}
    return body_keys() | keys.union(*(norm(f"{prefix}.{i + 1}") for i in VGG_CONVS))


def published_forward(state: dict[str, Tensor], x: Tensor, phi: Tensor, eps: Tensor) -> Tensor:
    """The port's generator in eval mode from nothing but its state dict; the VGG variant when its keys are there."""

    def conv(h: Tensor, key: str, stride: int = 1) -> Tensor:
        return F.conv2d(h, state[f"{key}.weight"], state.get(f"{key}.bias"), stride, padding=1)

    def bn(h: Tensor, key: str) -> Tensor:
        mean, var = state[f"{key}.running_mean"], state[f"{key}.running_var"]
        return F.batch_norm(h, mean, var, state[f"{key}.weight"], state[f"{key}.bias"])

    h = x
    if "encoder.29.weight" in state:
        for i in VGG_CONVS:
            h = F.max_pool2d(h, 2) if i - 1 in VGG_POOLS else h
            h = F.relu(bn(conv(h, f"encoder.{i}"), f"encoder.{i + 1}"))
    else:
        h = F.relu(conv(h, "encoder.0"))
        h = F.relu(bn(conv(h, "encoder.2", 2), "encoder.3"))
        h = F.relu(bn(conv(h, "encoder.5", 2), "encoder.6"))
    c = F.leaky_relu(phi @ state["mu.0.weight"].T, 0.2)
    c = c + F.leaky_relu(phi @ state["log_sigma.0.weight"].T, 0.2).exp() * eps
    h = torch.cat([h, c[:, :, None, None].repeat(1, 1, h.shape[2], h.shape[3])], 1)
    h = bn(conv(h, "residual_blocks.0"), "residual_blocks.1")  # no activation here
    for unit in (f"residual_blocks.{i}.encoder" for i in (2, 3, 4, 5)):
        branch = F.relu(bn(conv(h, f"{unit}.0"), f"{unit}.1"))
        h = F.relu(h + bn(conv(branch, f"{unit}.3"), f"{unit}.4"))
    for i in (1, 5):
        h = h.repeat_interleave(2, 2).repeat_interleave(2, 3)
        h = F.relu(bn(conv(h, f"decoder.{i}"), f"decoder.{i + 1}"))
    return conv(h, "decoder.8").tanh()


def random_state(shapes: dict[str, torch.Size], seed: int = 0) -> dict[str, Tensor]:
    """Tensors of a scale that keeps activations alive through all layers, as a trained file has."""
    rng = torch.Generator().manual_seed(seed)
    state = {}
    for key, shape in shapes.items():
        values = torch.empty(shape).normal_(generator=rng)
        if key.endswith("running_var"):
            values = values.abs() + 0.5
        elif len(shape) > 1:
            values = values * (2 / shape[1:].numel()) ** 0.5  # He et al.: variance through a ReLU
        elif key.endswith(("running_mean", "bias")):
            values = values * 0.1
        else:
            values = values * 0.1 + 1
        state[key] = values
    return state


@pytest.fixture
def conv_generator() -> SISGANGenerator:
    with torch.device("meta"):
        generator = SISGANGenerator(encoder="conv")
    shapes = {key: value.shape for key, value in generator.state_dict().items() if "num_batches" not in key}
    generator = generator.to_empty(device="cpu")
    generator.load_state_dict(random_state(shapes), strict=False)
    return generator.eval()


@pytest.fixture
def inputs() -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(1)
    x = torch.rand(2, 3, 64, 64, generator=rng) * 2 - 1
    return x, torch.randn(2, 300, generator=rng) / 4, torch.randn(2, 128, generator=rng)


@pytest.mark.parametrize(("encoder", "trained", "frozen"), [("conv", 26_014_851, 0), ("vgg", 23_388_291, 7_640_640)])
def test_generator_has_the_published_number_of_parameters(encoder: str, trained: int, frozen: int) -> None:
    with torch.device("meta"):
        parameters = list(SISGANGenerator(encoder=encoder).parameters())
    assert sum(p.numel() for p in parameters if p.requires_grad) == trained
    assert sum(p.numel() for p in parameters if not p.requires_grad) == frozen


def test_discriminator_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in SISGANDiscriminator().parameters()) == 3_937_217


def test_keys_are_those_of_the_released_files() -> None:
    with torch.device("meta"):
        conv, vgg = SISGANGenerator(encoder="conv"), SISGANGenerator(encoder="vgg")
    assert set(conv.state_dict()) == conv_keys()
    assert set(vgg.state_dict()) == vgg_keys("encoder.net")
    assert frozen_prefixes(vgg) == ("encoder.",)  # hence the VGG stays out of checkpoints
    shapes = {key: tuple(value.shape) for key, value in vgg.state_dict().items()}
    assert shapes["residual_blocks.0.weight"] == (512, 640, 3, 3)
    assert shapes["mu.0.weight"] == shapes["log_sigma.0.weight"] == (128, 300)


def test_generator_computes_what_the_port_computes(
    conv_generator: SISGANGenerator, inputs: tuple[Tensor, Tensor, Tensor]
) -> None:
    with torch.no_grad():
        out = conv_generator(*inputs)
        expected = published_forward(conv_generator.state_dict(), *inputs)
    assert out.shape == (2, 3, 64, 64)
    assert out.std() > 0.05  # the comparison is not one of zeros
    agree(out, expected)


def test_noise_is_the_callers(conv_generator: SISGANGenerator, inputs: tuple[Tensor, Tensor, Tensor]) -> None:
    x, phi, eps = (value[:1] for value in inputs)
    x = x[..., :32, :48]  # any sides that are divisible by 4
    with torch.no_grad():
        given = [conv_generator(x, phi, eps) for _ in range(2)]
        drawn = [conv_generator(x, phi) for _ in range(2)]
        torch.manual_seed(5)
        mean = [conv_generator(x, phi, mode="mean") for _ in range(2)]
        after = torch.rand(1)
        torch.manual_seed(5)
    assert torch.equal(given[0], given[1])
    assert not torch.equal(drawn[0], drawn[1])
    assert torch.equal(mean[0], mean[1])
    assert torch.equal(after, torch.rand(1))  # mode mean drew nothing
    assert torch.equal(mean[0], conv_generator(x, phi, torch.zeros(1, 128)))
    assert given[0].shape == (1, 3, 32, 48)


@pytest.mark.parametrize("vgg_input", ["unit", "imagenet"])
def test_vgg_variant_is_frozen_undilated_and_reads_its_own_range(
    vgg_input: str, inputs: tuple[Tensor, Tensor, Tensor]
) -> None:
    generator = SISGANGenerator(encoder="vgg", vgg_input=vgg_input)
    state = random_state({k: v.shape for k, v in generator.state_dict().items() if "num_batches" not in k})
    generator.load_state_dict(state, strict=False)
    assert not any(module.training for module in generator.train().encoder.modules())
    generator.eval()
    x, phi, eps = inputs
    x = x[..., :32, :32]
    seen = (x + 1) / 2
    if vgg_input == "imagenet":
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        seen = (seen - mean[:, None, None]) / std[:, None, None]
    published = {key.replace("encoder.net.", "encoder."): value for key, value in state.items()}
    assert set(published) == {key for key in vgg_keys() if "num_batches" not in key}
    with torch.no_grad():
        out = generator(x, phi, eps)
        agree(out, published_forward(published, seen, phi, eps))
        assert (out - published_forward(published, x, phi, eps)).abs().max() > 0.01  # the range does matter


def test_discriminator_gives_a_logit_for_each_image_and_shares_its_trunk() -> None:
    torch.manual_seed(0)
    net = SISGANDiscriminator()
    x, phi = torch.rand(2, 3, 64, 64), torch.randn(2, 300)
    assert net.trunk(x).shape == (2, 512, 4, 4)
    assert net(x, phi).shape == (2,)
    agree(net.head(net.trunk(x), phi), net(x, phi))
    net.eval()
    assert net(x[:1], phi[:1]).shape == (1,)
    assert not torch.equal(net(x, phi), net(x, -phi))


def test_wrong_choices_are_refused() -> None:
    with pytest.raises(UserError, match="64 px"):
        SISGANDiscriminator(image_size=128)
    with pytest.raises(UserError, match="encoder=conv or vgg"):
        SISGANGenerator(encoder="vgg16")
