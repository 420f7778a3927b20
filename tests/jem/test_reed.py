"""The published networks of GAN-CLS-INT: papers/jem.md, Sec. 6, and of number 1 what Sec. 2.5 counts of them."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import UserError
from jem.reed import PortDiscriminator, ReedDiscriminator, ReedGenerator
from tests.agree import agree

pytestmark = pytest.mark.usefixtures("float64")
SIZES: dict[str, Any] = {"image_size": 64, "text_dim": 1024, "text_width": 128}
SMALL: dict[str, Any] = {"image_size": 64, "text_dim": 7, "text_width": 5}
T, Z = SMALL["text_dim"], 3


def small() -> tuple[ReedGenerator, ReedDiscriminator]:
    torch.manual_seed(0)
    return ReedGenerator(ngf=2, z_dim=Z, **SMALL), ReedDiscriminator(ndf=2, **SMALL)


def lively(net: nn.Module) -> nn.Module:
    """Weights, means and variances of a scale that no layer is lost in, in eval mode."""
    rng = torch.Generator().manual_seed(1)
    for name, value in net.state_dict().items():
        if value.ndim > 1:
            value.normal_(0, (2 / value[0].numel()) ** 0.5, generator=rng)
        elif value.ndim == 1:
            value.uniform_(0.5 if "var" in name or name.endswith("weight") else -0.5, 1.5, generator=rng)
    return net.eval()


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("conv_bias", "g", "d"), [(False, 18_905_472, 4_030_080), (True, 18_909_699, 4_032_321)])
def test_parameters(conv_bias: bool, g: int, d: int) -> None:
    """Number 1, Sec. 2.5: bias-free, and as the .t7 files have them."""
    with torch.device("meta"):
        nets = (
            ReedGenerator(ngf=128, z_dim=100, conv_bias=conv_bias, **SIZES),
            ReedDiscriminator(ndf=64, conv_bias=conv_bias, **SIZES),
        )
    assert [sum(p.numel() for p in net.parameters()) for net in nets] == [g, d]


# ---- the published network again, from nothing but its weights


def conv(h: Tensor, layer: nn.Module, stride: int = 1, padding: int = 0) -> Tensor:
    return F.conv2d(h, layer.weight, None, stride, padding)


def up(h: Tensor, layer: nn.Module) -> Tensor:
    return F.conv_transpose2d(h, layer.weight, None, 2, 1)


def bn(h: Tensor, layer: nn.Module) -> Tensor:
    return F.batch_norm(h, layer.running_mean, layer.running_var, layer.weight, layer.bias)


def block(h: Tensor, layers: nn.Sequential, slope: float) -> Tensor:
    c1, n1, _, c2, n2, _, c3, n3 = layers
    b = F.leaky_relu(bn(conv(h, c1), n1), slope)
    b = F.leaky_relu(bn(conv(b, c2, 1, 1), n2), slope)
    return F.leaky_relu(h + bn(conv(b, c3, 1, 1), n3), slope)


def published_g(net: ReedGenerator, z: Tensor, t: Tensor) -> Tensor:
    weighted = [layer for layer in net.layers if not isinstance(layer, nn.ReLU | nn.Tanh)]
    c0, n0, block0, c1, n1, block1, c2, n2, c3, n3, c4 = weighted
    text = F.leaky_relu(t @ net.text[0].weight.T + net.text[0].bias, 0.2)
    h = bn(F.conv_transpose2d(torch.cat([z, text], 1)[..., None, None], c0.weight), n0)  # no ReLU
    h = bn(up(block(h, block0.branch, 0), c1), n1)  # no ReLU
    h = F.relu(bn(up(block(h, block1.branch, 0), c2), n2))
    return up(F.relu(bn(up(h, c3), n3)), c4).tanh()


def published_d(net: ReedDiscriminator, x: Tensor, t: Tensor) -> Tensor:
    c0, c1, n1, c2, n2, c3, n3, residual = (layer for layer in net.convs if not isinstance(layer, nn.LeakyReLU))
    linear, norm, _ = net.text
    c4, n4, _, c5 = net.joint
    h = F.leaky_relu(bn(conv(F.leaky_relu(conv(x, c0, 2, 1), 0.2), c1, 2, 1), n1), 0.2)
    h = bn(conv(bn(conv(h, c2, 2, 1), n2), c3, 2, 1), n3)  # no activation behind either
    h = block(h, residual.branch, 0.2)
    text = F.leaky_relu(bn(t @ linear.weight.T + linear.bias, norm), 0.2)  # BN in front of it
    h = torch.cat([h, text[:, :, None, None].repeat(1, 1, 4, 4)], 1)
    return conv(F.leaky_relu(bn(conv(h, c4), n4), 0.2), c5)[:, 0, 0, 0]


@torch.no_grad()
def test_they_compute_what_is_published() -> None:
    """Sec. 6: z before the sentence, image before the sentence, and activations only where they are."""
    g, d = small()
    lively(g), lively(d)
    z, t = noise(2, Z), noise(2, T, seed=1)
    x = g(z, t)
    assert x.shape == (2, 3, 64, 64)
    assert 0.05 < x.std() < 0.9
    agree(x, published_g(g, z, t))
    logits = d(x, t)
    assert logits.shape == (2,)
    assert logits.std() > 1e-3
    agree(logits, published_d(d, x, t))
    assert d(x[:1], t[:1]).shape == (1,)
    assert torch.equal(g(z, t, noise(2, 9)), x)  # a guide is nothing to it


def test_the_trunk_is_shared_and_every_layer_learns() -> None:
    """Numbers 7 and 9 for these networks."""
    g, d = small()
    z, t = noise(3, Z), noise(3, T, seed=1)
    x = g(z, t)
    assert d.trunk(x).shape == (3, 16, 4, 4)
    assert torch.equal(d.head(d.trunk(x), t), d(x, t))
    d(x, t).sum().backward()
    for name, p in [*g.named_parameters(), *d.named_parameters()]:
        assert p.grad is not None
        assert not name.endswith("weight") or p.grad.abs().max() > 0, name


@pytest.mark.parametrize("kind", [ReedDiscriminator, PortDiscriminator])
def test_a_discriminator_may_see_images_from_0_to_1(kind: type[ReedDiscriminator] | type[PortDiscriminator]) -> None:
    plain, unit = kind(ndf=2, **SMALL), kind(ndf=2, unit=True, **SMALL)
    unit.load_state_dict(plain.state_dict())
    x, t = noise(2, 3, 64, 64).tanh(), noise(2, T, seed=1)
    agree(unit(x, t), plain((x + 1) / 2, t))
    assert not torch.equal(unit(x, t), plain(x, t))


def test_first_weights_are_torchs() -> None:
    """Convolutions N(0, 0.02^2), gamma N(1, 0.02^2), linear layers as Torch makes them."""
    g, d = ReedGenerator(ngf=8, z_dim=Z, **SIZES), ReedDiscriminator(ndf=8, **SIZES)
    for net in (g, d):
        convs = torch.cat([p.flatten() for p in net.parameters() if p.ndim == 4])
        assert abs(float(convs.std()) - 0.02) < 1e-3
        assert 0.025 < net.text[0].weight.abs().max() <= 1 / 1024**0.5
        gammas = [m.weight for m in net.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
        assert all(0 < gamma.std() < 0.05 for gamma in gammas)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image_size": 128}, ["data.image_size=128", "data.image_size=64"]),
        ({"kernel": 5}, ["model.generator.kernel=4"]),
        ({"ngf": 0}, ["model.generator.ngf"]),
        ({"code": (20,)}, ["guide", "model.generator.arch=dcgan"]),
    ],
)
def test_sizes_that_cannot_be_are_a_sentence(changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(UserError) as refused:
        ReedGenerator(**({"ngf": 2, "z_dim": Z} | SMALL | changes))
    assert all(word in str(refused.value) for word in words)
    with pytest.raises(UserError, match=r"model\.discriminator\.kernel=4"):
        ReedDiscriminator(ndf=2, kernel=5, **SMALL)
