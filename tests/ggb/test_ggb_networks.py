"""GGB's and PG2's networks to the last parameter, what each part may see, and what each gradient reaches."""

from collections.abc import Iterable

import pytest
import torch
from torch import Tensor, nn

import ggb.pg2_networks as pg2
from common.errors import UserError
from ggb.networks import Generator, GuidingBlock, downsized
from tests.agree import agree
from tests.worlds.pose_networks import (
    critic,
    discriminator,
    generator,
    guiding_block,
    guiding_blocks,
    pg2_discriminator,
    pg2_generator,
)

pytestmark = pytest.mark.usefixtures("float64")

S = 64  # side of the small networks here: levels 4, 5, 6 are 8, 16 and 32 px


def count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def flows(parameters: Iterable[nn.Parameter]) -> set[bool]:
    """Whether each of them has a gradient that is not 0: {True}, {False} or both."""
    return {p.grad is not None and bool(p.grad.abs().sum() > 0) for p in parameters}


def small(levels: tuple[int, ...] = (4, 5, 6), **options: object) -> Generator:
    torch.manual_seed(0)
    return generator(image_size=S, ngf=4, levels=levels, **options)


def photos(number: int, count: int = 4, side: int = S) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(number)) * 2 - 1


def pose(count: int = 4) -> Tensor:
    return photos(9, count).repeat(1, 6, 1, 1).sign()


def block(**options: object) -> GuidingBlock:
    torch.manual_seed(0)
    return guiding_block(side=32, ndf=4, **options)


def inputs_of(net: nn.Module) -> list[Tensor]:
    """Filled with what the network is given from now on."""
    seen: list[Tensor] = []
    net.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    return seen


# ---- sizes


@pytest.mark.parametrize(
    ("net", "parameters"),
    [
        (generator, 41_859_532),
        (lambda: generator(levels=()), 41_847_427),
        (lambda: generator().to_rgb["4"], 6_915),
        (lambda: generator().to_rgb["5"], 3_459),
        (lambda: generator().to_rgb["6"], 1_731),
        (discriminator, 2_765_633),
        (lambda: discriminator(condition_channels=18), 2_784_065),
        (lambda: discriminator(condition_channels=21), 2_787_137),
        (lambda: discriminator(head="linear"), 2_765_698),
        (lambda: critic(side=32), 2_631_169),
        (lambda: guiding_block(side=128).E, 134_336),
        (guiding_blocks, 16_190_022),
        (lambda: guiding_blocks(levels=(5, 6)), 10_793_348),
        (lambda: guiding_blocks(levels=(6,)), 5_396_674),
        (lambda: guiding_blocks(rapd=False), 8_296_515),
        (lambda: guiding_blocks(nvtd=False), 8_296_515),
        (lambda: pg2_generator().stage1, 122_103_235),
        (lambda: pg2_generator().stage2, 12_696_067),
        (pg2_discriminator, 10_896_257),
    ],
)
def test_parameter_counts(net, parameters: int) -> None:
    with torch.device("meta"):
        assert count(net()) == parameters


def test_state_without_heads() -> None:
    """Parameters, running statistics and counters of what is exported."""
    with torch.device("meta"):
        state = generator(levels=()).state_dict()
    assert sum(value.numel() for value in state.values()) == 41_855_246
    assert sum(value.numel() for key, value in state.items() if "running" in key) == 7_808
    assert sum("num_batches" in key for key in state) == 11


def test_shapes_of_the_generator() -> None:
    with torch.device("meta"):
        net = generator()
        features = net.enc(torch.empty(2, 21, 256, 256))
        generated = net.dec(list(features))
        out = net(torch.empty(2, 3, 256, 256), torch.empty(2, 18, 256, 256))
    assert [tuple(f.shape[1:]) for f in features] == [
        *((64, 128, 128), (128, 64, 64), (256, 32, 32), (512, 16, 16), (512, 8, 8), (512, 4, 4), (512, 2, 2))
    ]
    assert [tuple(g.shape) for g in generated[3:6]] == [(2, 256, 32, 32), (2, 128, 64, 64), (2, 64, 128, 128)]
    assert [tuple(image.shape) for image in out] == [(2, 3, s, s) for s in (32, 64, 128, 256)]
    convolutions = [len([m for m in net.modules() if isinstance(m, kind)]) for kind in (nn.Conv2d, nn.ConvTranspose2d)]
    assert convolutions == [7 + 3, 7]


def test_shapes_of_the_critics() -> None:
    with torch.device("meta"):
        image = torch.empty(2, 3, 256, 256)
        assert discriminator()(image).shape == (2, 1, 8, 8)
        assert discriminator(head="linear")(image).shape == (2, 1)
        blocks = guiding_blocks()
        lower = downsized(image, (4, 5, 6))
        features = [tuple(b.E(x).shape) for b, x in zip(blocks.values(), lower, strict=True)]
        told = blocks(image, image, *lower)
        again = blocks(image, None, *lower)
    assert features == [(2, 128, 8, 8), (2, 128, 16, 16), (2, 128, 32, 32)]
    shapes = [(2, 1, 1, 1), (2, 1, 2, 2), (2, 1, 4, 4)]
    assert [tuple(t.shape) for judged in told for pair in judged for t in pair] == [s for s in shapes for _ in range(4)]
    assert [tuple(t.shape) for judged in again for one in judged for t in one] == [s for s in shapes for _ in range(2)]


def test_shapes_of_pg2() -> None:
    with torch.device("meta"):
        net = pg2_generator()
        widths = []
        for part in net.stage1.dec:
            part.register_forward_pre_hook(lambda _, inputs: widths.append(inputs[0].shape[1]))
        code = []
        net.stage1.to_code.register_forward_hook(lambda *args: code.append(tuple(args[2].shape)))
        coarse, fine = net(torch.empty(2, 3, 256, 256), torch.empty(2, 18, 256, 256))
        assert coarse.shape == fine.shape == (2, 3, 256, 256)
        assert pg2_discriminator()(fine).shape == (2,)
    assert widths == [896, 1280, 1024, 768, 512, 256]
    assert code == [(2, 64)]


@pytest.mark.parametrize("side", [32, 64, 128, 512])
def test_other_sides_count_levels_from_the_output(side: int) -> None:
    levels = (5, 6) if side == 32 else (4, 5, 6)
    with torch.device("meta"):
        image, c = torch.empty(2, 3, side, side), torch.empty(2, 18, side, side)
        net = generator(image_size=side, ngf=8, levels=levels)
        features = net.enc(torch.cat([image, c], 1))
        out = net(image, c)
        told = guiding_blocks(image_size=side, ndf=8, levels=levels)(image, image, *out[:-1])
        grid = discriminator(image_size=side, ndf=8)(image).shape[2:]
        coarse, _ = pg2_generator(image_size=side, width=8)(image, c)
        assert pg2_discriminator(image_size=side, ndf=8)(image).shape == (2,)
    assert features[-1].shape[2:] == (2, 2)
    assert list(net.dec)[-3:] == ["5", "6", "7"]
    assert [image.shape[-1] for image in out] == [side // 2 ** (7 - n) for n in (*levels, 7)]
    assert [judged.appearance[0].shape[-1] for judged in told] == [max(1, side >> (12 - n)) for n in levels]
    assert grid == (side // 32, side // 32)
    assert coarse.shape == image.shape


def test_an_eighth_of_the_widths_at_64_px() -> None:
    with torch.device("meta"):
        nets = [generator(image_size=64, ngf=8), discriminator(image_size=64, ndf=8)]
        assert [count(net) < 300_000 for net in nets] == [True, True]
        critics = [critic for block in guiding_blocks(image_size=64).values() for critic in (block.Da, block.Dv)]
    assert [sum(isinstance(m, nn.Conv2d) for m in critic.modules()) for critic in critics] == [3] * 6


@pytest.mark.parametrize("side", [48, 16, 100])
def test_a_side_that_cannot_be_halved_down_is_refused(side: int) -> None:
    with pytest.raises(UserError, match=f"data.image_size={side} must be"):
        generator(image_size=side)
    with pytest.raises(UserError, match=f"data.image_size={side} must be"):
        discriminator(image_size=side)


def test_levels_without_a_block_are_refused() -> None:
    for make in (generator, guiding_blocks):
        with pytest.raises(UserError, match="no guiding block of level 3, only of 4, 5, 6"):
            make(levels=(3, 4))
    with pytest.raises(UserError, match="cannot judge images of 4 px"):
        guiding_blocks(image_size=32)
    with pytest.raises(UserError, match="8 x 8"):
        pg2_generator(image_size=48)


# ---- the generator


def test_skips_come_first_and_each_level_sees_its_mirror() -> None:
    net = small().eval()
    features = net.enc(torch.cat([photos(0), pose()], 1))
    seen = {n: inputs_of(up.conv) for n, up in net.dec.items()}
    net.dec(list(features))
    for n, e in zip(("4", "5", "6", "7"), features[-2::-1], strict=True):
        agree(seen[n][0][:, : e.shape[1]], e.relu())
    agree(seen["3"][0], features[-1].relu())


def test_heads_read_the_features_that_the_next_level_reads() -> None:
    net = small()
    heads, nexts = [inputs_of(h) for h in net.to_rgb.values()], [inputs_of(net.dec[n]) for n in ("5", "6", "7")]
    *lower, image = net(photos(0), pose())
    for head, after in zip(heads, nexts, strict=True):
        agree(head[0], after[0][:, -head[0].shape[1] :])
    for x in (*lower, image):
        assert -1 < x.min() < x.max() < 1


def test_images_of_levels_are_not_fed_back() -> None:
    net = small().eval()
    before = net(photos(0), pose())[-1]
    nn.init.zeros_(net.to_rgb["5"][1].weight)
    assert torch.equal(before, net(photos(0), pose(), heads=False)[-1])
    assert len(net(photos(0), pose(), heads=False)) == 1


def test_dropout_is_in_the_three_innermost_levels() -> None:
    with torch.device("meta"):
        net = generator(dropout=0.5)
        assert [n for n, up in net.dec.items() if isinstance(up.act, nn.Dropout)] == ["1", "2", "3"]
        assert not any(isinstance(m, nn.Dropout) for m in generator().modules())


@pytest.mark.parametrize("norm", ["batch", "instance", "none"])
def test_norms_and_biases(norm: str) -> None:
    """Without batch norm the convolutions beside it have biases; e1, e7 and d7 have no norm; instance has no state."""
    with torch.device("meta"):
        g, d = generator(norm=norm), discriminator(norm=norm)
        b = guiding_block(side=64, norm=norm)
    kinds = {"batch": nn.BatchNorm2d, "instance": nn.InstanceNorm2d, "none": ()}
    norms = [sum(isinstance(m, kinds[norm]) for m in net.modules()) if norm != "none" else 0 for net in (g, d, b)]
    assert norms == ([11, 3, 4] if norm != "none" else [0, 0, 0])
    assert [m.conv.bias is None for m in (*g.enc.values(), *g.dec.values())] == [norm == "batch"] * 13 + [False]
    assert count(g) == (41_859_532 if norm == "batch" else 41_859_532 - 2 * 3_904 + 4_480)
    if norm != "batch":
        assert not [key for net in (g, d, b) for key in net.state_dict() if "running" in key or "bn" in key]
    assert not any(isinstance(m, nn.BatchNorm2d | nn.InstanceNorm2d) for m in b.E.modules())


def test_initial_weights() -> None:
    torch.manual_seed(0)
    nets = [
        generator(image_size=64, ngf=16),
        discriminator(image_size=64, ndf=16),
        guiding_blocks(image_size=64, ndf=8),
    ]
    for net in nets:
        layers = [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
        assert torch.cat([m.weight.flatten() for m in layers]).std().item() == pytest.approx(0.02, rel=0.02)
        assert all(m.bias is None or not m.bias.any() for m in layers)
        gammas = torch.cat([m.weight for m in net.modules() if isinstance(m, nn.BatchNorm2d)])
        assert gammas.std().item() == pytest.approx(0.02, rel=0.2)
        assert gammas.mean().item() == pytest.approx(1, abs=0.01)
    uniform = torch.cat(
        [m.weight.flatten() for m in pg2_discriminator(image_size=32, ndf=4).modules() if hasattr(m, "kernel_size")]
    )
    assert uniform.abs().max().item() == pytest.approx(0.02 * 3**0.5, rel=0.01)
    assert uniform.std().item() == pytest.approx(0.02, rel=0.02)


def test_a_score_of_the_discriminator_is_of_94_pixels() -> None:
    net = discriminator(ndf=4).eval()
    image = photos(0, 1, 256).requires_grad_()
    net(image)[0, 0, 4, 4].backward()
    rows, columns = (image.grad.abs().sum((0, 1, axis)).nonzero() for axis in (3, 2))
    assert [int(r.max() - r.min()) + 1 for r in (rows, columns)] == [94, 94]


def test_the_condition_is_laid_behind_the_image() -> None:
    net = discriminator(image_size=S, ndf=4, condition_channels=3)
    seen = inputs_of(net.trunk)
    net(photos(0), photos(1))
    assert torch.equal(seen[0], torch.cat([photos(0), photos(1)], 1))


# ---- gradients (Sec. 9, check 5)


@pytest.mark.parametrize(
    ("levels", "reached"),
    [((4, 5, 6), "3 4 5 6"), ((5, 6), "3 4 5 6"), ((6,), "3 4 5 6"), ((4,), "3 4")],
)
def test_what_images_of_levels_train(levels: tuple[int, ...], reached: str) -> None:
    net = small(levels)
    *lower, _ = net(photos(0), pose())
    sum(x.square().mean() for x in lower).backward()
    assert [n for n, up in net.dec.items() if flows(up.parameters()) == {True}] == reached.split()
    assert [n for n, up in net.dec.items() if flows(up.parameters()) == {False}] == [
        n for n in net.dec if n not in reached
    ]
    assert flows(net.enc.parameters()) == {True}
    assert flows(net.to_rgb.parameters()) == {True}


def test_what_the_image_itself_trains() -> None:
    net = small()
    net(photos(0), pose())[-1].square().mean().backward()
    assert flows(net.enc.parameters()) == flows(net.dec.parameters()) == {True}
    assert flows(net.to_rgb.parameters()) == {False}


@pytest.mark.parametrize("critic", ["appearance", "variation"])
def test_each_critic_alone_trains_the_shared_encoder(critic: str) -> None:
    net = block()
    sum(
        logits.square().mean()
        for logits in getattr(net(photos(0, side=32), photos(1, side=32), photos(2, side=32)), critic)
    ).backward()  # type: ignore[union-attr]
    other = net.Dv if critic == "appearance" else net.Da
    own = net.Da if critic == "appearance" else net.Dv
    assert flows(net.E.parameters()) == flows(own.parameters()) == {True}
    assert flows(other.parameters()) == {False}


def test_a_frozen_encoder_stays_and_its_critics_learn() -> None:
    net = block(e_trainable=False)
    judged = net(photos(0, side=32), photos(1, side=32), photos(2, side=32))
    sum(logits.square().mean() for pair in judged for logits in pair).backward()  # type: ignore[union-attr]
    assert flows(net.E.parameters()) == {False}
    assert flows([*net.Da.parameters(), *net.Dv.parameters()]) == {True}


@pytest.mark.parametrize("critic", ["appearance", "variation"])
def test_the_fake_is_reached_and_the_source_is_not(critic: str) -> None:
    net = block().requires_grad_(False)
    x, fake = photos(0, side=32).requires_grad_(), photos(1, side=32).requires_grad_()
    sum(logits.sum() for logits in getattr(net(x, fake), critic)).backward()  # type: ignore[union-attr]
    assert fake.grad.abs().sum() > 0
    assert x.grad is None


# ---- what RAPD and NVTD see (Sec. 9, checks 8 and 9)


def test_what_the_critics_are_given() -> None:
    """RAPD the features, NVTD what they have more than the source's, with its sign; real and fake one after another."""
    net = block()
    x, fake, y = (photos(i, side=32) for i in range(3))
    f_x, f_fake, f_y = (net.E(image) for image in (x, fake, y))
    appearance, variation = inputs_of(net.Da), inputs_of(net.Dv)
    net(x, fake, y)
    net(x, fake)
    for seen, wanted in ((appearance, (f_y, f_fake)), (variation, (f_y - f_x, f_fake - f_x))):
        for given, value in zip(seen, (*wanted, wanted[1]), strict=True):
            agree(given, value)
    assert variation[0].min() < 0 < variation[0].max()
    assert appearance[0].shape == variation[0].shape


def test_an_image_like_the_source_has_no_variation() -> None:
    net = block()
    seen = inputs_of(net.Dv)
    net(photos(0, side=32), photos(0, side=32))
    net(photos(0, side=32), photos(0, side=32), photos(1, side=32))
    assert not seen[0].any()
    agree(seen[2], torch.zeros_like(seen[2]))
    assert seen[1].any()


def test_the_source_changes_variation_only() -> None:
    net = block()
    fake, y = photos(1, side=32), photos(2, side=32)
    one, two = net(photos(0, side=32), fake, y), net(photos(5, side=32), fake, y)
    for a, b in zip(one.appearance, two.appearance, strict=True):
        agree(a, b)
    assert all((a - b).abs().max() > 1e-3 for a, b in zip(one.variation, two.variation, strict=True))


def test_what_all_features_share_is_seen_by_appearance_only() -> None:
    net = block()
    images = [photos(i, side=32) for i in range(3)]
    before = net(*images)
    net.E.register_forward_hook(lambda _m, _i, features: features + 0.3)
    after = net(*images)
    for a, b in zip(before.variation, after.variation, strict=True):
        agree(a, b)
    assert all((a - b).abs().max() > 1e-3 for a, b in zip(before.appearance, after.appearance, strict=True))


def test_the_encoder_at_once_equals_three_calls() -> None:
    net = block().E
    images = [photos(i, side=32) for i in range(3)]
    for one, of_all in zip((net(image) for image in images), net(torch.cat(images)).chunk(3), strict=True):
        agree(one, of_all)


def test_blocks_judge_their_own_levels() -> None:
    """Each level's block gets the photos at its own resolution, and the fake of its own level."""
    torch.manual_seed(0)
    blocks = guiding_blocks(image_size=S, ndf=4)
    x, y, lower = photos(0), photos(1), [photos(i, side=s) for i, s in enumerate((8, 16, 32))]
    told = blocks(x, y, *lower)
    changed = blocks(x, y, lower[0], -lower[1], lower[2])
    differ = [not torch.equal(a.appearance[1], b.appearance[1]) for a, b in zip(told, changed, strict=True)]
    assert differ == [False, True, False]
    for judged, net, small_x, fake, small_y in zip(
        told, blocks.values(), downsized(x, blocks.levels), lower, downsized(y, blocks.levels), strict=True
    ):
        for a, b in zip(judged, net(small_x, fake, small_y), strict=True):
            agree(a, b)


def test_an_absent_critic_says_nothing() -> None:
    x, fake, y = (photos(i, side=32) for i in range(3))
    for options, sizes in (({"rapd": False}, (0, 2)), ({"nvtd": False}, (2, 0))):
        assert tuple(map(len, block(**options)(x, fake, y))) == sizes


# ---- smaller photos (Sec. 9, check 4)


@pytest.mark.parametrize("how", ["area", "bilinear_aa"])
def test_smaller_photos(how: str) -> None:
    image = photos(0, 2, 256)
    small_ones = downsized(image, (4, 5, 6), how)
    assert [s.shape[-1] for s in small_ones] == [32, 64, 128]
    squares = (torch.arange(256)[:, None] + torch.arange(256)).remainder(2).mul(2).sub(1.0).expand(1, 3, -1, -1)
    (half,) = downsized(squares, (6,), how)
    assert half[..., 8:-8, 8:-8].abs().max() < 1e-10
    if how == "area":
        assert half.abs().max() == 0
        for s in small_ones:
            agree(s.mean((2, 3)), image.mean((2, 3)))


# ---- PG2


def test_refinement_adds_to_the_first_stage() -> None:
    torch.manual_seed(0)
    net = pg2_generator(image_size=32, width=4)
    x, c = photos(0, 2, 32), torch.ones(2, 18, 32, 32)
    seen: list[tuple[Tensor, Tensor]] = []
    net.stage2.register_forward_pre_hook(lambda _, inputs: seen.append(inputs))
    coarse, fine = net(x, c)
    assert torch.equal(seen[0][0], coarse)  # G2 reads the coarse image first, then the photo
    assert torch.equal(seen[0][1], x)
    agree(fine - coarse, net.stage2(coarse, x))
    fine.square().mean().backward()
    assert flows(net.parameters()) == {True}


def test_output_is_linear() -> None:
    net = pg2_generator(image_size=32, width=4)
    nn.init.constant_(net.stage1.out.bias, 5.0)
    assert net(photos(0, 2, 32), torch.ones(2, 18, 32, 32))[0].min() > 1


@pytest.mark.parametrize(("kernel", "pads"), [(3, (0, 1)), (5, (1, 2))])
def test_tensorflow_pads_less_before_than_behind(kernel: int, pads: tuple[int, int]) -> None:
    """SAME with stride 2 of an even side: one pixel less on the left and on the top."""
    conv = pg2.Conv(1, 1, kernel, 2, tf_padding=True)
    x = torch.randn(1, 1, 8, 8)
    padded = nn.functional.pad(x, (*pads, *pads))
    agree(conv(x), nn.functional.conv2d(padded, conv.weight, conv.bias, 2))
    assert conv(x).shape == pg2.Conv(1, 1, kernel, 2)(x).shape
    assert (conv(x) - nn.functional.conv2d(x, conv.weight, conv.bias, 2, kernel // 2)).abs().max() > 1e-3


def test_target_fake_and_source_share_statistics() -> None:
    net = pg2_discriminator(image_size=32, ndf=4)
    images = [photos(i, 2, 32) for i in range(3)]
    together = net(torch.cat(images))
    assert together.shape == (6,)
    assert (together - torch.cat([net(image) for image in images])).abs().max() > 1e-4
