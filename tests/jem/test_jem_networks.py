"""JEM's networks to the last parameter, SAME padding, and what the guide reaches: papers/jem.md, numbers 1 to 12."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from common.errors import UserError
from jem.networks import ConvSame, DeconvSame, Discriminator, Generator, GuidedDiscriminator
from tests.agree import agree

pytestmark = pytest.mark.usefixtures("float64")
FC7, ALEXNET5, VGG5 = (4096,), (256, 13, 13), (512, 14, 14)


def generator(**changes: Any) -> Generator:
    sizes = {"image_size": 64, "text_dim": 4800, "code": FC7, "ngf": 64, "z_dim": 100, "text_width": 256, "kernel": 5}
    return Generator(**(sizes | {"inject": "all", "grid": 4, "guide_width": 256} | changes))


def discriminator(kind: type[Discriminator] = Discriminator, **changes: Any) -> Discriminator:
    return kind(**({"image_size": 64, "text_dim": 4800, "ndf": 64, "text_width": 256, "kernel": 5} | changes))


def small(**changes: Any) -> Generator:
    torch.manual_seed(0)
    return generator(
        **({"text_dim": 12, "code": (20,), "ngf": 4, "text_width": 6, "guide_width": 5, "z_dim": 3} | changes)
    )


def small_d(kind: type[Discriminator] = Discriminator, **changes: Any) -> Discriminator:
    torch.manual_seed(1)
    return discriminator(kind, **({"text_dim": 12, "ndf": 4, "text_width": 6} | changes))


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize(
    ("changes", "parameters"),
    [
        ({}, 13_671_315),
        ({"grid": 1}, 12_746_115),
        ({"inject": "input"}, 11_607_555),
        ({"inject": "maps"}, 11_574_163),
        ({"code": ALEXNET5}, 11_763_075),
        ({"code": VGG5}, 11_828_611),
        ({"inject": "none"}, 8_461_571),
        ({"inject": "none", "code": None}, 8_461_571),
        ({"inject": "none", "text_dim": 2400}, 7_847_171),
        ({"image_size": 128, "ngf": 128}, 65_946_915),
        ({"image_size": 128, "ngf": 128, "inject": "none"}, 41_842_947),
        ({"image_size": 128}, 28_736_403),
    ],
)
def test_parameters_of_the_generator(changes: dict[str, Any], parameters: int) -> None:
    """Number 1, Sec. 2.5."""
    with torch.device("meta"):
        assert count(generator(**changes)) == parameters


@pytest.mark.parametrize(
    ("changes", "parameters"),
    [
        ({}, 5_940_353),
        ({"text_dim": 2400}, 5_325_953),
        ({"kind": GuidedDiscriminator, "code": FC7, "guide_width": 256}, 7_120_257),
        ({"image_size": 128, "ndf": 128}, 19_826_689),
        ({"image_size": 128}, 5_964_929),
    ],
)
def test_parameters_of_the_discriminator(changes: dict[str, Any], parameters: int) -> None:
    """Number 1, Sec. 2.5."""
    with torch.device("meta"):
        assert count(discriminator(**changes)) == parameters


@pytest.mark.parametrize("side", [64, 128])
@pytest.mark.parametrize("kernel", [5, 4])
def test_shapes_and_range(side: int, kernel: int) -> None:
    """Number 2: G64 and G128, D64 and D128, whose head sees 8 x 8."""
    net, critic = small(image_size=side, kernel=kernel), small_d(image_size=side, kernel=kernel)
    x = net(drawn(2, 3), drawn(2, 12), drawn(2, 20))
    assert x.shape == (2, 3, side, side)
    assert x.abs().max() < 1
    assert critic.trunk(x).shape[-2:] == (side // 16, side // 16)
    assert critic(x, drawn(2, 12)).shape == (2,)


@pytest.mark.parametrize("code", [(7, 13, 13), (7, 3, 3)])
def test_a_conv5_guide_reaches_every_stage_at_its_size(code: tuple[int, ...]) -> None:
    net = small(code=code)
    assert net(drawn(2, 3), drawn(2, 12), drawn(2, *code)).shape == (2, 3, 64, 64)


def test_the_first_layers_are_tensorflows_and_dcgans() -> None:
    """Sec. 2.4: convolutions cut at two sigma, deconvolutions and linear layers not, BN about 1."""
    net, critic = small(ngf=16), small_d(ndf=16)
    convs = torch.cat([conv.weight.flatten() for conv in critic.convs])
    deconvs = torch.cat([deconv.weight.flatten() for deconv in net.deconvs])
    assert convs.abs().max() <= 0.04
    assert deconvs.abs().max() > 0.06
    assert abs(float(deconvs.std()) - 0.02) < 1e-3
    assert all(layer.bias.abs().max() == 0 for layer in (*critic.convs, *net.deconvs, net.first, net.text[0]))
    assert abs(float(net.first_norm.weight.mean()) - 1) < 0.01


# ---- TensorFlow's SAME


def test_same_pads_one_before_and_two_behind() -> None:
    """Number 12, on a 4 x 4 input: output 0 sees -1..3, output 1 sees 1..5; symmetric padding would see 0..3."""
    conv = ConvSame(1, 1)
    nn.init.ones_(conv.weight)
    x = torch.zeros(1, 1, 4, 4, requires_grad=True)
    conv(x)[0, 0, 1, 1].backward()
    seen = x.grad[0, 0].nonzero() if x.grad is not None else torch.zeros(0, 2)
    assert (seen.min(), seen.max()) == (1, 3)
    assert conv(x).shape == (1, 1, 2, 2)


def test_the_deconvolution_of_an_impulse() -> None:
    """Number 12: one-hot at (1, 1) of 2 x 2 reaches rows and columns 1..3 of 4."""
    deconv = DeconvSame(1, 1)
    nn.init.ones_(deconv.weight)
    nn.init.zeros_(deconv.bias)
    x = torch.zeros(1, 1, 2, 2)
    x[0, 0, 1, 1] = 1
    out = deconv(x)[0, 0]
    assert out.shape == (4, 4)
    assert out.nonzero().unique().tolist() == [1, 2, 3]


def test_convolution_and_deconvolution_are_adjoint() -> None:
    """Number 12: <conv(a), b> = <a, deconv(b)>, which fails for any shift or flip."""
    conv, deconv = ConvSame(3, 2), DeconvSame(2, 3)
    deconv.weight.data = conv.weight.data
    nn.init.zeros_(conv.bias)
    nn.init.zeros_(deconv.bias)
    a, b = drawn(1, 3, 8, 8), drawn(1, 2, 4, 4, seed=1)
    agree((conv(a) * b).sum(), (a * deconv(b)).sum())


# ---- what the guide reaches


def test_without_injection_the_guide_is_nothing() -> None:
    """Number 7: no parameter of a guide exists, and the output is the same bit for bit."""
    net = small(inject="none")
    assert not [name for name, _ in net.named_parameters() if "guide" in name]
    z, t = drawn(2, 3), drawn(2, 12)
    assert torch.equal(net(z, t, drawn(2, 20)), net(z, t, drawn(2, 20, seed=5)))
    assert torch.equal(net(z, t, drawn(2, 20)), net(z, t))


@pytest.mark.parametrize("inject", ["all", "input", "maps"])
def test_an_injected_guide_moves_the_output(inject: str) -> None:
    """Number 7, `inject=input` among them."""
    net = small(inject=inject).eval()
    z, t = drawn(2, 3), drawn(2, 12)
    assert not torch.equal(net(z, t, drawn(2, 20)), net(z, t, drawn(2, 20, seed=5)))


@pytest.mark.parametrize("code", [(20,), (6, 5, 5)])
def test_every_layer_learns(code: tuple[int, ...]) -> None:
    """Number 7: every weight of G has a gradient; the bias in front of a BN has almost none."""
    net, critic = small(code=code), small_d()
    critic(net(drawn(4, 3), drawn(4, 12), drawn(4, *code)), drawn(4, 12)).sum().backward()
    for name, p in net.named_parameters():
        assert p.grad is not None
        assert p.grad.abs().max() > (0 if name.endswith("weight") else -1), name
        before_bn = name.startswith(("first.", "deconvs.", "guide.to_maps.")) and not name.startswith("deconvs.3")
        if name.endswith("bias") and before_bn:  # of a linear layer the sum over the cells of a channel
            cells = 16 if name.startswith("first.") or (len(code) == 1 and "to_maps" in name) else 1
            assert p.grad.unflatten(0, (-1, cells)).sum(1).abs().max() < 1e-6, name


def test_the_papers_discriminator_cannot_see_the_guide_and_the_other_can() -> None:
    """Number 8."""
    x, t = drawn(2, 3, 64, 64).tanh(), drawn(2, 12)
    with pytest.raises(TypeError):
        small_d()(x, t, drawn(2, 20))
    guided = small_d(GuidedDiscriminator, code=(20,), guide_width=5)
    assert not torch.equal(guided(x, t, drawn(2, 20)), guided(x, t, drawn(2, 20, seed=5)))
    pooled = small_d(GuidedDiscriminator, code=(20, 3, 3), guide_width=5)
    v = drawn(2, 20, 3, 3)
    agree(pooled(x, t, v), pooled(x, t, v.mean((2, 3))))


def test_the_trunk_is_shared_exactly() -> None:
    """Number 9: head(trunk(x), t) is D(x, t) in train mode."""
    critic = small_d()
    x, t = drawn(3, 3, 64, 64).tanh(), drawn(3, 12)
    assert torch.equal(critic.head(critic.trunk(x), t), critic(x, t))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"inject": "everywhere"}, ["model.generator.inject", "input"]),
        ({"code": None}, ["inject=all", "model=gan_cls"]),
        ({"image_size": 60}, ["data.image_size=60", "64"]),
        ({"grid": 3}, ["model.generator.grid=3", "4"]),
        ({"kernel": 3}, ["model.generator.kernel"]),
        ({"ngf": 0}, ["model.generator.ngf"]),
    ],
)
def test_sizes_that_cannot_be_are_a_sentence(changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(UserError) as refused:
        small(**changes)
    assert all(word in str(refused.value) for word in words)
