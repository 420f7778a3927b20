"""FineGAN's and AttnGAN's networks to the last parameter and name, and what each input may and may not change."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from common.errors import UserError
from finegan.discriminators import Discriminator, quadrants
from finegan.encoders import RNNEncoder
from finegan.networks import Attention, Generated, Generator, initialise, warm_start
from tests.agree import agree
from tests.worlds.settings import settings

pytestmark = pytest.mark.usefixtures("float64")


def count(net: nn.Module | None) -> int:
    assert net is not None
    return sum(p.numel() for p in net.parameters())


def tensors(net: nn.Module) -> tuple[int, int]:
    """With num_batches_tracked and without, as files of PyTorch before 0.4.1 have it."""
    keys = list(net.state_dict())
    return len(keys), sum(not key.endswith("num_batches_tracked") for key in keys)


def on_meta(kind: Callable[..., nn.Module], **options: object) -> nn.Module:
    with torch.device("meta"):
        return kind(**options)


# ---- sizes and names


@pytest.mark.parametrize(
    ("options", "parameters"),
    [
        ({}, 7_084_592),
        ({"masks": True, "mask_levels": [64, 128, 256]}, 7_127_272),
        ({"masks": True}, 8_168_168),
    ],
)
def test_generator_counts(options: dict, parameters: int) -> None:
    assert count(on_meta(generator, **options)) == parameters


def test_mask_encoder_count_and_where_it_enters() -> None:
    net = on_meta(generator, masks=True)
    assert count(net.mask_net) == 240_312
    ups = [getattr(net.h_net1, f"upsample{i}") for i in (1, 2, 3, 4)] + [net.h_net2.upsample, net.h_net3.upsample]
    assert [up[1].in_channels for up in ups] == [640, 320, 192, 96, 80, 72]
    assert [name for name, _ in net.mask_net.named_children()] == [f"down{256 >> i}" for i in range(7)]
    plain = on_meta(generator)
    ups = [getattr(plain.h_net1, f"upsample{i}") for i in (1, 2, 3, 4)] + [plain.h_net2.upsample, plain.h_net3.upsample]
    assert [up[1].in_channels for up in ups] == [512, 256, 128, 64, 64, 64]


def test_levels_below_the_smallest_listed_are_not_built_and_unlisted_ones_only_pass_on() -> None:
    net = on_meta(generator, masks=True, mask_levels=[64, 256])
    assert [name for name, _ in net.mask_net.named_children()] == ["down256", "down128", "down64"]
    assert net.mask_net.widths == {256: 8, 64: 32}
    with pytest.raises(UserError, match="mask_levels has 48"):
        generator(masks=True, mask_levels=[48])


@pytest.mark.parametrize(
    ("side", "conditional", "parts", "parameters", "keys"),
    [
        (64, True, False, 6_313_730, (29, 25)),
        (128, True, False, 19_424_002, (41, 35)),
        (256, True, False, 71_858_946, (53, 45)),
        (64, True, True, 6_313_730 + 2_049, (31, 27)),
        (64, False, True, 2_767_618, (23, 20)),
        (128, False, True, 15_877_890, (35, 30)),
        (256, False, True, 68_312_834, (47, 40)),
    ],
)
def test_discriminator_counts(
    side: int, conditional: bool, parts: bool, parameters: int, keys: tuple[int, int]
) -> None:
    net = on_meta(discriminator, side=side, conditional=conditional, parts=parts)
    assert count(net) == parameters
    assert tensors(net) == keys


def test_all_six_discriminators_together() -> None:
    sides = (64, 128, 256)
    assert sum(count(on_meta(discriminator, side=s, parts=True)) for s in sides) == 97_602_825
    assert sum(count(on_meta(discriminator, side=s, parts=True, conditional=False)) for s in sides) == 86_958_342


@pytest.mark.parametrize(("tokens", "parameters"), [(313, 534_220), (5450, 2_075_320)])
def test_text_encoder_count(tokens: int, parameters: int) -> None:
    net = on_meta(RNNEncoder, tokens=tokens, word_dim=300, code_dim=256, dropout=0.5)
    assert count(net) == parameters
    assert tensors(net) == (9, 9)
    assert set(net.state_dict()) >= {"encoder.weight", "rnn.weight_ih_l0", "rnn.bias_hh_l0_reverse"}
    assert net.encoder.weight.shape == (tokens, 300)
    assert net.rnn.weight_ih_l0.shape == (512, 300)


def test_generator_has_the_published_names_and_shapes() -> None:
    state = on_meta(generator).state_dict()
    wanted = {
        "ca_net.fc.weight": (400, 256),
        "ca_net.fc.bias": (400,),
        "h_net1.fc.0.weight": (16384, 200),
        "h_net1.fc.1.running_var": (16384,),
        "h_net1.upsample1.1.weight": (512, 512, 3, 3),
        "h_net1.upsample4.1.weight": (64, 64, 3, 3),
        "h_net1.upsample4.2.weight": (64,),
        "h_net2.att.conv_context.weight": (32, 256, 1, 1),
        "h_net2.residual.1.block.0.weight": (128, 64, 3, 3),
        "h_net2.residual.1.block.1.bias": (128,),
        "h_net3.residual.0.block.3.weight": (64, 64, 3, 3),
        "h_net3.residual.0.block.4.running_mean": (64,),
        "h_net3.upsample.1.weight": (64, 64, 3, 3),
        "h_net3.upsample.2.bias": (64,),
        "img_net2.img.0.weight": (3, 32, 3, 3),
    }
    assert {key: tuple(state[key].shape) for key in wanted} == wanted
    assert tensors(on_meta(generator)) == (97, 82)
    assert tensors(on_meta(generator, masks=True)) == (139, 117)


def test_discriminator_has_the_published_names_and_shapes() -> None:
    state = on_meta(discriminator, side=256, parts=True).state_dict()
    wanted = {
        "img_code_s16.0.weight": (64, 3, 4, 4),
        "img_code_s16.2.weight": (128, 64, 4, 4),
        "img_code_s16.8.weight": (512, 256, 4, 4),
        "img_code_s16.9.running_var": (512,),
        "img_code_s32.0.weight": (1024, 512, 4, 4),
        "img_code_s64.0.weight": (2048, 1024, 4, 4),
        "img_code_s64_1.0.weight": (1024, 2048, 3, 3),
        "img_code_s64_2.0.weight": (512, 1024, 3, 3),
        "img_code_s64_2.1.weight": (512,),
        "UNCOND_DNET.outlogits.0.weight": (1, 512, 4, 4),
        "COND_DNET.jointConv.0.weight": (512, 768, 3, 3),
        "COND_DNET.jointConv.1.bias": (512,),
        "COND_DNET.outlogits.0.bias": (1,),
        "PART_DNET.outlogits.0.weight": (1, 512, 2, 2),
    }
    assert {key: tuple(state[key].shape) for key in wanted} == wanted
    middle = on_meta(discriminator, side=128).state_dict()
    assert middle["img_code_s32_1.0.weight"].shape == (512, 1024, 3, 3)
    assert not any(key.startswith("PART_DNET") for key in middle)


@pytest.mark.parametrize(("size", "sides"), [(256, (64, 128, 256)), (64, (16, 32, 64))])
@pytest.mark.parametrize("masks", [True, False])
def test_shapes_without_memory(size: int, sides: tuple[int, ...], masks: bool) -> None:
    with torch.device("meta"):
        net = generator(image_size=size, masks=masks)
        pad, mask = torch.zeros(2, 7, dtype=torch.bool), torch.empty(2, 1, size, size)
        drawn = net(torch.empty(2, 100), torch.empty(2, 256), torch.empty(2, 256, 7), pad, *([mask] if masks else []))
        assert [tuple(x.shape) for x in drawn.images] == [(2, 3, s, s) for s in sides]
        assert [tuple(a.shape) for a in drawn.attention] == [(2, 7, s, s) for s in sides[:2]]
        assert drawn.mu.shape == drawn.logvar.shape == (2, 100)
        for side in sides:
            judge = discriminator(side=side, parts=True)
            x = torch.empty(2, 3, side, side)
            assert judge.trunk(x).shape == (2, 512, 4, 4)
            assert judge.trunk(quadrants(x)).shape == (8, 512, 2, 2)
            assert [tuple(p.shape) for p in judge(x, torch.empty(2, 256))] == [(2,), (2,), (2, 4)]
            foreground = discriminator(side=side, conditional=False)
            assert [tuple(p.shape) for p in foreground(x)] == [(2,)]


def test_trunks_of_small_sides_have_the_last_widths() -> None:
    for side, widths in ((64, [4, 8, 16, 32]), (32, [8, 16, 32]), (16, [16, 32])):
        net = discriminator(side=side, ndf=4)
        assert [m.out_channels for m in net.img_code_s16 if isinstance(m, nn.Conv2d)] == widths


@pytest.mark.parametrize("side", [4, 48, 100, 0])
def test_a_side_without_a_grid_of_four_is_refused(side: int) -> None:
    with pytest.raises(UserError, match="power of two"):
        discriminator(side=side)
    with pytest.raises(UserError, match="power of two"):
        generator(image_size=side, masks=True)


def test_an_unknown_part_mode_is_refused() -> None:
    with pytest.raises(UserError, match="There are crop, patch"):
        discriminator(side=16, part_mode="grid")


def test_initial_weights() -> None:
    torch.manual_seed(0)
    net, judge = generator(ngf=4, masks=True), discriminator(side=64, ndf=8, parts=True)
    bias = judge.UNCOND_DNET.outlogits[0].bias.clone()
    initialise(net)
    initialise(judge)
    for weight in (net.ca_net.fc.weight, net.h_net3.upsample[1].weight, judge.img_code_s16[5].weight):
        flat = weight.flatten(1)
        flat = flat if flat.shape[0] <= flat.shape[1] else flat.T
        agree(flat @ flat.T, torch.eye(len(flat)))
    assert not net.ca_net.fc.bias.any()
    gammas = torch.cat([m.weight for m in net.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)])
    assert gammas.mean().item() == pytest.approx(1.0, abs=0.002)
    assert gammas.std().item() == pytest.approx(0.02, rel=0.1)
    assert torch.equal(judge.UNCOND_DNET.outlogits[0].bias, bias)  # as PyTorch draws it
    assert bias.any()


# ---- text encoder


@pytest.fixture
def encoder() -> RNNEncoder:
    torch.manual_seed(0)
    return RNNEncoder(tokens=20, word_dim=6, code_dim=8, dropout=0.5).eval()


def test_padding_changes_no_code_and_is_zero(encoder: RNNEncoder) -> None:
    ids, lengths = torch.tensor([[3, 5, 9], [7, 2, 0]]), torch.tensor([3, 2])
    words, sent = encoder(ids, lengths)
    assert words.shape == (2, 8, 3)
    assert sent.shape == (2, 8)
    assert not words[1, :, 2].any()
    wider, same = encoder(torch.cat([ids, torch.zeros(2, 4, dtype=torch.long)], 1), lengths)
    assert wider.shape == (2, 8, 7)  # also where no sequence fills the width
    assert torch.equal(wider[..., :3], words)
    assert not wider[..., 3:].any()
    assert torch.equal(same, sent)


def test_the_global_code_is_the_last_state_forward_and_the_first_backward(encoder: RNNEncoder) -> None:
    words, sent = encoder(torch.tensor([[3, 5, 9], [7, 2, 0]]), torch.tensor([3, 2]))
    last = torch.stack([words[0, :4, 2], words[1, :4, 1]])
    agree(sent, torch.cat([last, words[:, 4:, 0]], 1))


def test_order_of_the_batch_is_indifferent_and_of_the_tokens_is_not(encoder: RNNEncoder) -> None:
    ids, lengths = torch.tensor([[7, 2, 0, 0], [3, 5, 9, 1], [4, 0, 0, 0]]), torch.tensor([2, 4, 1])
    words, sent = encoder(ids, lengths)
    order = torch.tensor([1, 0, 2])  # longest first, as the published code needs it
    sorted_words, sorted_sent = encoder(ids[order], lengths[order])
    agree(sorted_words[order.argsort()], words)
    agree(sorted_sent[order.argsort()], sent)
    _, swapped = encoder(torch.tensor([[2, 7]]), torch.tensor([2]))
    assert (swapped[0] - sent[0]).abs().max() > 1e-4


def test_dropout_is_of_training_only(encoder: RNNEncoder) -> None:
    ids, lengths = torch.tensor([[3, 5, 9]]), torch.tensor([3])
    assert torch.equal(encoder(ids, lengths)[1], encoder(ids, lengths)[1])
    encoder.train()
    assert not torch.equal(encoder(ids, lengths)[1], encoder(ids, lengths)[1])
    assert encoder.encoder.weight.abs().max() <= 0.1


# ---- generator


def draw(net: Generator, inputs: dict[str, Tensor | None], **other: Tensor | None) -> Generated:
    with torch.no_grad():
        return net(**inputs | other)


def inputs(length: int = 4, size: int = 64, batch: int = 2) -> dict[str, Tensor | None]:
    """Noise, codes and the mask of a left half; the second sample's last two tokens are padding."""
    mask = torch.zeros(batch, 1, size, size)
    mask[..., : size // 2] = 1
    pad = torch.zeros(batch, length, dtype=torch.bool)
    pad[1, -2:] = True
    z, sent, eps = torch.randn(batch, 5), torch.randn(batch, 8), torch.randn(batch, 6)
    return {"z": z, "sent": sent, "words": torch.randn(batch, 8, length), "pad": pad, "mask": mask, "eps": eps}


def generator(**options: Any) -> Generator:
    """G of conf/model/finegan.yaml without masks, but for some sizes."""
    whole = {"image_size": 256, "code_dim": 256, "legacy": False} | settings("finegan")["generator"] | {"masks": False}
    return Generator(**whole | options)


def discriminator(**options: Any) -> Discriminator:
    told = settings("finegan")["discriminator"]
    whole = {"code_dim": 256, "conditional": True, "parts": False, "ndf": told["ndf"], "part_mode": told["part_mode"]}
    return Discriminator(**whole | options)


def tiny(**options: object) -> Generator:
    torch.manual_seed(0)
    sizes = {"image_size": 64, "ngf": 4, "code_dim": 8, "z_dim": 5, "c_dim": 6, "masks": True}
    net = generator(**sizes | options)
    initialise(net)
    return net


def test_images_and_attention_lie_in_their_ranges() -> None:
    net, given = tiny(), inputs()
    drawn = draw(net, given)
    assert all(0 < image.abs().max() < 1 for image in drawn.images)
    for attention in drawn.attention:
        agree(attention.sum(1), torch.ones_like(attention[:, 0]))
        assert not attention[1, 2:].any()  # exactly 0 at padding
        assert attention[0].gt(0).all()


def test_padding_columns_change_no_image() -> None:
    net, given = tiny().eval(), inputs()
    wider = {
        "words": torch.cat([given["words"], torch.full((2, 8, 3), 9.0)], 2),
        "pad": torch.cat([given["pad"], torch.ones(2, 3, dtype=torch.bool)], 1),
    }
    for image, same in zip(draw(net, given).images, draw(net, given, **wider).images, strict=True):
        agree(image, same)
    for name in ("words", "z", "sent", "eps", "mask"):
        changed = draw(net, given, **{name: given[name].roll(1, -1)})
        assert (changed.images[2] - draw(net, given).images[2]).abs().max() > 1e-6, name


def test_legacy_attention_is_the_published_one() -> None:
    pad = torch.tensor([[False, False, True], [False, True, True]])
    attention = Attention(channels=4, code_dim=8, legacy=True)
    with torch.no_grad():
        _, seen = attention(torch.randn(2, 4, 2, 2), torch.randn(2, 8, 3), pad)
    for sample in seen.flatten(2):
        assert sample[1].gt(0).tolist() == [True, False, True, False]  # word 1 at queries 0 and 2, in both samples
        assert sample[0].gt(0).all()
        assert not sample[2].any()
    # row bQ + q of the scores is given row (bQ + q) mod B of the padding, written out
    wanted = torch.stack([torch.stack([pad[(b * 5 + q) % 2] for q in range(5)]) for b in range(2)])
    assert torch.equal(attention.hidden(pad, 5), wanted)


def test_attention_equals_its_formula() -> None:
    torch.manual_seed(0)
    net = Attention(channels=4, code_dim=8, legacy=False)
    h, words = torch.randn(2, 4, 3, 3), torch.randn(2, 8, 5)
    pad = torch.tensor([[False] * 5, [False, False, True, True, True]])
    with torch.no_grad():
        context, _ = net(h, words, pad)
        for b, length in enumerate((5, 2)):
            keys = net.conv_context.weight[:, :, 0, 0] @ words[b, :, :length]
            for y, x in ((0, 0), (1, 2)):
                weights = (h[b, :, y, x] @ keys).softmax(0)
                agree(context[b, :, y, x], keys @ weights)


def test_attention_in_another_memory_format_is_the_same() -> None:
    net, given = tiny().eval(), inputs()
    images = draw(net, given).images
    net.to(memory_format=torch.channels_last)
    agree(draw(net, given).images, images)


def test_softmax_and_logits_are_float32_under_autocast() -> None:
    net, judge = tiny().float(), discriminator(side=16, ndf=4, code_dim=8, parts=True).float()
    given = {name: value.float() if value.is_floating_point() else value for name, value in inputs().items()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        drawn = draw(net, given)
        logits = judge(drawn.images[0], given["sent"])
        assert judge.trunk(drawn.images[0]).dtype == torch.bfloat16
    for value in (*drawn.images, *drawn.attention, drawn.mu, drawn.logvar, *logits):
        assert value.dtype == torch.float32
    torch.testing.assert_close(drawn.attention[0].sum(1), torch.ones(2, 16, 16, dtype=torch.float32))


def test_the_condition_is_its_mean_and_deviation_times_the_noise() -> None:
    net, given = tiny().eval(), inputs()
    seen = []
    net.h_net1.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    drawn = draw(net, given)
    halves = net.ca_net.fc(given["sent"])  # GLU over the statistics
    statistics = halves[:, :12] * halves[:, 12:].sigmoid()
    agree(torch.cat([drawn.mu, drawn.logvar], 1), statistics)
    agree(seen[0], drawn.mu + given["eps"] * (drawn.logvar / 2).exp())
    draw(net, given, eps=None)
    draw(net, given, eps=None)
    assert not torch.equal(seen[1], seen[2])


def test_a_mask_is_wanted_exactly_where_it_is_read() -> None:
    given = inputs()
    with pytest.raises(ValueError, match="needs a mask"):
        draw(tiny(), given, mask=None)
    with pytest.raises(ValueError, match="takes none"):
        draw(tiny(masks=False), given)


@pytest.mark.parametrize("levels", [None, [16, 32, 64]])
@pytest.mark.parametrize("training", [True, False])
def test_a_warm_start_draws_the_same_images_for_any_mask(levels: list[int] | None, training: bool) -> None:
    plain, masked = tiny(masks=False), tiny(mask_levels=levels)
    old = {k: v for k, v in plain.state_dict().items() if not k.endswith("num_batches_tracked")}
    warm_start(masked, old)
    plain.train(training)
    masked.train(training)
    given = inputs()
    wanted = draw(plain, given, mask=None).images
    for mask in (given["mask"], 1 - given["mask"]):
        for image, same in zip(draw(masked, given, mask=mask).images, wanted, strict=True):
            assert torch.equal(image, same)
    grown = masked.state_dict()["h_net1.upsample1.1.weight"]
    assert torch.equal(grown[:, :16], old["h_net1.upsample1.1.weight"])
    assert not grown[:, 16:].any()


def test_a_warm_start_refuses_other_weights() -> None:
    masked, state = tiny(), tiny(masks=False).state_dict()
    with pytest.raises(UserError, match=r"img_net4.img.0.weight"):
        warm_start(masked, state | {"img_net4.img.0.weight": torch.zeros(3, 4, 3, 3)})
    with pytest.raises(UserError, match=r"\(3, 8, 3, 3\) where"):
        warm_start(masked, state | {"img_net3.img.0.weight": torch.zeros(3, 8, 3, 3)})
    with pytest.raises(UserError, match=r"lack img_net3.img.0.weight and 0 more"):
        warm_start(masked, {k: v for k, v in state.items() if k != "img_net3.img.0.weight"})


# ---- discriminators


def judge(side: int, **options: object) -> Discriminator:
    torch.manual_seed(1)
    net = discriminator(side=side, ndf=4, code_dim=8, parts=True, **options)
    initialise(net)
    return net.eval()


def test_quadrants_go_by_place_and_then_by_sample() -> None:
    x = torch.arange(2 * 3 * 4 * 4.0).view(2, 3, 4, 4)
    cut = quadrants(x)
    assert cut.shape == (8, 3, 2, 2)
    assert torch.equal(cut[1], x[1, :, :2, :2])
    assert torch.equal(cut[2], x[0, :, :2, 2:])
    assert torch.equal(cut[5], x[1, :, 2:, :2])
    assert torch.equal(cut[6], x[0, :, 2:, 2:])


@pytest.mark.parametrize("side", [16, 32, 64, 128, 256])
@pytest.mark.parametrize("mode", ["crop", "patch"])
def test_what_a_quadrant_may_change(side: int, mode: str) -> None:
    net, x = judge(side, part_mode=mode), torch.randn(2, 3, side, side)
    other, half = x.clone(), side // 2
    other[:, :, half:, :half] += 1.0  # bottom left
    with torch.no_grad():
        change = net.part(other, net.trunk(other)) - net.part(x, net.trunk(x))
    assert change.shape == (2, 4)
    assert change[:, 2].all()
    assert change[:, [0, 1, 3]].bool().all().item() is (mode == "patch")
    assert change[:, [0, 1, 3]].bool().any().item() is (mode == "patch")


@pytest.mark.parametrize(("side", "rows"), [(64, 47), (128, 127), (256, 256)])
def test_receptive_field_of_the_first_patch(side: int, rows: int) -> None:
    net, x = judge(side, part_mode="patch"), torch.randn(1, 3, side, side, requires_grad=True)
    net.part(x, net.trunk(x))[0, 0].backward()
    for reach in (x.grad.abs().sum((0, 1, 3)), x.grad.abs().sum((0, 1, 2))):
        assert reach.nonzero().flatten().tolist() == list(range(rows))


def test_a_part_is_judged_as_the_image_cut_out() -> None:
    net, x = judge(64), torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        alone = net.PART_DNET(net.trunk(x[1:2, :, :32, 32:]))
        agree(net.part(x, net.trunk(x))[1, 1], alone.squeeze())


def test_modes_share_their_weights() -> None:
    net = judge(64, part_mode="patch")
    net.load_state_dict(judge(64).state_dict(), strict=True)


def test_a_shared_code_gives_each_logit() -> None:
    net, x, sent = judge(64), torch.randn(3, 3, 64, 64), torch.randn(3, 8)
    with torch.no_grad():
        code = net.trunk(x)
        u, k, p = net(x, sent)
        agree(u, net.uncond(code))
        agree(k, net.cond(code, sent))
        agree(p, net.part(x, code))
        assert (net.cond(code, sent.roll(1, 0)) - k).abs().min() > 1e-5
        assert len(net(x)) == 2  # no condition, no logit of it


# ---- foreground


@pytest.mark.parametrize("training", [True, False])
def test_background_is_given_no_gradient(training: bool) -> None:
    net = judge(64, conditional=False).train(training)
    f = torch.randn(3, 3, 64, 64, requires_grad=True)
    m = torch.zeros(3, 1, 64, 64)
    m[:, :, 10:40, 20:50] = 1
    shown = f * m
    (net.uncond(net.trunk(shown)).sum() + net.part(shown, net.trunk(shown)).sum()).backward()
    assert not f.grad[(m == 0).expand_as(f)].any()
    assert f.grad[(m == 1).expand_as(f)].ne(0).float().mean() > 0.99


@pytest.mark.parametrize("training", [True, False])
def test_an_empty_mask_tells_real_from_fake_nothing(training: bool) -> None:
    net = judge(64, conditional=False).train(training)
    x, f = torch.randn(2, 3, 64, 64), torch.randn(2, 3, 64, 64, requires_grad=True)
    nothing = torch.zeros(2, 1, 64, 64)
    for real, fake in zip(net(x * nothing), net(f * nothing), strict=True):
        assert torch.equal(real, fake)
        assert real.isfinite().all()
    sum(logits.sum() for logits in net(f * nothing)).backward()
    assert not f.grad.any()


def test_a_full_mask_is_none() -> None:
    net, f = judge(64, conditional=False), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        for masked, bare in zip(net(f * torch.ones(2, 1, 64, 64)), net(f), strict=True):
            assert torch.equal(masked, bare)


def test_one_empty_mask_among_others_leaks_batch_statistics_only() -> None:
    net, m = judge(64, conditional=False), torch.ones(2, 1, 64, 64)
    m[0] = 0
    x, f = torch.randn(2, 3, 64, 64), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(net(x * m)[0][0], net(f * m)[0][0])
        net.train()
        assert not torch.equal(net(x * m)[0][0], net(f * m)[0][0])
