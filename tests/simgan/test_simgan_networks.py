"""The networks of the paper to the last parameter, and what their inputs may and may not change."""

from typing import Any

import pytest
import torch
from torch import nn

from common.errors import UserError
from simgan.networks import Discriminator, Generator, Standardise, still_statistics
from tests.agree import agree
from tests.worlds.settings import settings

pytestmark = pytest.mark.usefixtures("float64")


def generator(**options: Any) -> Generator:
    """G of conf/model/simgan.yaml, but for some sizes."""
    return Generator(**{"phi_dim": 300, "standardise": False} | settings("simgan")["generator"] | options)


def discriminator(**options: Any) -> Discriminator:
    return Discriminator(
        **{"phi_dim": 300, "standardise": False, "image_size": 256} | settings("simgan")["discriminator"] | options
    )


def count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize(
    ("options", "parameters"),
    [
        ({}, 21_168_195),
        ({"n_res": 4}, 7_000_131),
        ({"first_kernel": 7}, 21_175_875),
        ({"ca_bias": True}, 21_168_451),
        ({"ngf": 128}, 83_809_411),
    ],
)
def test_generator_counts(options: dict, parameters: int) -> None:
    with torch.device("meta"):
        assert count(generator(**options)) == parameters


@pytest.mark.parametrize(
    ("options", "parameters", "convolutions"),
    [
        ({}, 11_523_521, 8),
        ({"image_size": 128}, 7_328_193, 7),
        ({"image_size": 64}, 3_132_865, 6),
        ({"d_max": None}, 45_868_481, 8),
    ],
)
def test_discriminator_counts(options: dict, parameters: int, convolutions: int) -> None:
    with torch.device("meta"):
        net = discriminator(**options)
    assert count(net) == parameters
    assert sum(isinstance(m, nn.Conv2d) for m in net.modules()) == convolutions


def test_generator_parts_and_shapes() -> None:
    with torch.device("meta"):
        net = generator()
        seen = []
        net.residual.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape)))
        net.joint.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape)))
        out = net(torch.empty(2, 3, 256, 256), torch.empty(2, 300))
    assert out.shape == (2, 3, 256, 256)
    assert seen == [(2, 384, 64, 64), (2, 256, 64, 64)]
    parts = [net.encoder, net.joint, net.residual, net.augment]
    assert [count(part) for part in parts] == [657_920, 885_248, 18_890_752, 76_800]
    assert sum(isinstance(m, nn.Conv2d) for m in net.modules()) == 3 + 1 + 32 + 1
    assert sum(isinstance(m, nn.ConvTranspose2d) for m in net.modules()) == 2


def test_images_stay_in_range_and_any_side_divisible_by_four_goes() -> None:
    net = generator(ngf=4, n_res=1, phi_dim=6)
    out = net(torch.rand(2, 3, 36, 52) * 2 - 1, torch.randn(2, 6))
    assert out.shape == (2, 3, 36, 52)
    assert out.abs().max() < 1


def test_scores_are_one_for_each_image_also_for_one() -> None:
    net = discriminator(image_size=32, ndf=4, d_max=16, phi_dim=6).eval()
    assert net(torch.randn(1, 3, 32, 32), torch.randn(1, 6)).shape == (1,)


@pytest.mark.parametrize("side", [48, 100, 4])
def test_a_side_without_a_grid_of_four_is_refused(side: int) -> None:
    with pytest.raises(UserError, match="power of two"):
        discriminator(image_size=side)


def test_shared_trunk_equals_separate_calls() -> None:
    torch.manual_seed(0)
    net = discriminator(image_size=32, ndf=8, d_max=32, phi_dim=6).double()
    x, own, wrong = torch.randn(4, 3, 32, 32).double(), torch.randn(4, 6).double(), torch.randn(4, 6).double()
    seen = net.look(x)
    for phi in (own, wrong):
        text = net.text(phi)[:, :, None, None].expand(-1, -1, 4, 4)
        whole = net.score(net.joint(torch.cat([net.trunk(x), text], 1))).flatten()  # as Fig. 2 has it
        torch.testing.assert_close(net.head(seen, phi), whole, atol=1e-10, rtol=0)


def test_noise_and_mode_in_eval() -> None:
    torch.manual_seed(0)
    net = generator(ngf=8, n_res=2, phi_dim=6).eval()
    x, phi = torch.rand(3, 3, 16, 16) * 2 - 1, torch.randn(3, 6)
    eps, other = torch.randn(3, 128), torch.randn(3, 128)
    assert torch.equal(net(x, phi, eps), net(x, phi, eps))
    assert not torch.equal(net(x, phi, eps), net(x, phi, other))
    torch.manual_seed(1)
    first = net(x, phi, mode="mean")
    torch.manual_seed(2)
    assert torch.equal(first, net(x, phi, mode="mean"))
    assert not torch.equal(net(x, phi), net(x, phi))
    alone = net(x[1:2], phi[1:2], eps[1:2])
    agree(alone, net(x, phi, eps)[1:2])


def test_a_second_pass_leaves_the_running_statistics_alone() -> None:
    net = generator(ngf=4, n_res=1, phi_dim=6)
    x, phi = torch.rand(2, 3, 16, 16), torch.randn(2, 6)
    net(x, phi)
    before = {name: value.clone() for name, value in net.named_buffers()}
    with still_statistics(net):
        still = net(x, phi, mode="mean")
    assert all(torch.equal(value, before[name]) for name, value in net.named_buffers())
    agree(still, net(x, phi, mode="mean"))
    assert not all(torch.equal(value, before[name]) for name, value in net.named_buffers())


@pytest.mark.parametrize("still", [False, True])
def test_recomputed_activations_change_neither_gradients_nor_statistics(still: bool) -> None:
    torch.manual_seed(0)
    plain = generator(ngf=4, n_res=2, phi_dim=6)
    saving = generator(ngf=4, n_res=2, phi_dim=6, recompute=True)
    saving.load_state_dict(plain.state_dict())
    x, phi, eps = torch.rand(2, 3, 16, 16), torch.randn(2, 6), torch.randn(2, 128)
    for net in (plain, saving):
        if still:
            with still_statistics(net):
                out = net(x, phi, eps)
        else:
            out = net(x, phi, eps)
        out.square().sum().backward()
    for a, b in zip(plain.parameters(), saving.parameters(), strict=True):
        agree(a.grad, b.grad)
    for a, b in zip(plain.buffers(), saving.buffers(), strict=True):
        agree(a, b)


def test_the_sum_over_the_trunk_has_relu_after_it_unless_told() -> None:
    kinds = [type(generator(ngf=4, n_res=1, phi_dim=6, res_post_relu=on).residual[0].post) for on in (True, False)]
    assert kinds == [nn.ReLU, nn.Identity]


def test_initial_weights() -> None:
    torch.manual_seed(0)
    net = generator(ngf=16, n_res=4)
    weights = torch.cat([m.weight.flatten() for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)])
    gammas = torch.cat([m.weight for m in net.modules() if isinstance(m, nn.BatchNorm2d)])
    assert weights.std().item() == pytest.approx(0.02, rel=0.02)
    assert gammas.mean().item() == pytest.approx(1.0, abs=0.01)
    assert gammas.std().item() == pytest.approx(0.02, rel=0.2)


def test_standardised_sentence_vectors() -> None:
    spread = torch.tensor([9.0, 3, 1, 0.5, 0.1, 1e-3]).double()
    phi = torch.randn(500, 6, generator=torch.Generator().manual_seed(0)).double() * spread + 4
    net = Standardise(6).double()
    torch.testing.assert_close(net(phi), phi, atol=1e-10, rtol=0)  # before it has seen any
    net.measure(phi)
    torch.testing.assert_close(net(phi).mean(0), torch.zeros(6).double(), atol=1e-10, rtol=0)
    torch.testing.assert_close(net(phi).std(0), torch.ones(6).double(), atol=1e-10, rtol=0)
    phi[:, 2] = 5.0  # says nothing
    net.measure(phi)
    assert (net(phi)[:, 2] == 0).all()


def test_without_a_joint_norm_a_pair_is_judged_by_itself() -> None:
    """With BN there, other pairs of the batch change the score: a batch of fitting pairs is told by its statistics."""
    for norm in ("batch", "none"):
        torch.manual_seed(0)
        net = discriminator(image_size=16, phi_dim=6, ndf=8, text_dim=4, joint_norm=norm).double()
        x, phi = torch.randn(4, 3, 16, 16).double(), torch.randn(4, 6).double()
        seen, other = net.look(x), torch.cat([phi[:1], phi[1:] * 3])
        change = (net.head(seen, phi)[0] - net.head(seen, other)[0]).abs()
        assert (change < 1e-10) == (norm == "none")


def test_with_image_skip_the_photo_is_painted_over_where_the_mask_says() -> None:
    torch.manual_seed(0)
    net = generator(phi_dim=6, ngf=8, n_res=1, ca_dim=4, image_skip=True).double()
    photo, phi = torch.rand(2, 3, 16, 16).double() * 1.9 - 0.95, torch.randn(2, 6).double()
    last = net.decoder[-2]
    nn.init.zeros_(last.weight)
    for mask, paint in ((0.0, 0.5), (-40.0, 0.5), (40.0, 0.5), (0.3, -0.2)):
        last.bias.data = torch.tensor([paint, 0, -paint, mask]).double()
        share, colour = torch.tensor(mask).double().sigmoid(), last.bias[:3].tanh()[:, None, None]
        wanted = (1 - share) * photo + share * colour
        torch.testing.assert_close(net(photo, phi, mode="mean"), wanted, atol=1e-10, rtol=0)
