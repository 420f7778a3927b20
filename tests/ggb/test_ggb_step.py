"""One training step of GGB: the losses by hand, who ran, who moved, and what its orders of updating have in common."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from common.data.poses import pose_maps
from common.errors import UserError
from common.losses import weighted
from ggb.model import GGB
from ggb.networks import downsized
from tests.worlds.tiny_pairs import LOSS, S, batch, fit, make

LN2 = 0.693147
ROWS: dict[str, dict[str, Any]] = {
    "ours": {},
    "two": {"levels": [5, 6]},
    "one": {"levels": [6]},
    "without RAPD": {"rapd": False},
    "without NVTD": {"nvtd": False},
    "without GGBs": {"levels": []},
    "multirec": {"multirec": True},
}


RATE = 0.1


class ByGradient:
    """Plain gradient descent in place of Adam, so that steps add up."""

    def adam(self, *sides: list[nn.Parameter]) -> list[torch.optim.Optimizer]:
        return [torch.optim.SGD(side, RATE) for side in sides]


class GGBByGradient(ByGradient, GGB):
    pass


def pieces(model: GGB) -> dict[str, Any]:
    """What a step hands to its terms."""
    b = batch()
    c = model.pose(b["target_joints"])
    *lower, image = model.generator(b["image"], c)
    return {"x": b["image"], "y": b["target"], "c": c, "image": image, "lower": lower}


def d_terms(model: GGB, p: dict[str, Any]) -> dict[str, Tensor]:
    return model.d_terms(p["x"], p["y"], p["c"], p["image"].detach(), [small.detach() for small in p["lower"]])


def reached(net: nn.Module) -> set[str]:
    """Children, and children's children, of whose parameters one has a gradient that is not 0."""
    names = [n for n, p in net.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0]
    return {".".join(name.split(".")[:2]) for name in names}


def parts(model: GGB, *, but: str = "") -> set[str]:
    return {".".join(n.split(".")[:2]) for n, _ in model.generator.named_parameters() if not n.startswith(but or " ")}


# ---- the losses by hand (Sec. 9, checks 3 and 8)


def undecided(model: GGB) -> GGB:
    """All critics say 0."""
    for net in [model.discriminator, *(c for b in model.discriminator_ggb.values() for c in (b.Da, b.Dv))]:
        last = [m for m in net.modules() if isinstance(m, nn.Conv2d)][-1]
        nn.init.zeros_(last.weight)
    return model


def test_losses_of_critics_that_say_nothing() -> None:
    model = undecided(make())
    p = pieces(model)
    terms = d_terms(model, p)
    assert {name: round(term.item(), 6) for name, term in terms.items()} == {
        "image": pytest.approx(2 * LN2, abs=1e-6),
        "rapd": pytest.approx(3 * 2 * LN2, abs=2e-6),
        "nvtd": pytest.approx(3 * 2 * LN2, abs=2e-6),
    }
    each = [v.item() for name, v in model.to_log.items() if name.startswith("train/d_")]
    assert each == [pytest.approx(1.386294, abs=1e-6)] * 7
    same = model.ggb_terms(p["x"], p["y"], downsized(p["y"], model.levels))
    assert same["rec"].item() == 0
    assert weighted(same, model.loss["ggb"]).item() == pytest.approx(0.0415888, abs=1e-7)
    image = model.g_terms(p["x"], p["y"], p["c"], p["y"])
    assert weighted(image, model.loss["g"]).item() == pytest.approx(0.0138629, abs=1e-7)


def test_white_against_black() -> None:
    model = make()
    p = pieces(model)
    black = [-torch.ones_like(small) for small in p["lower"]]
    white = torch.ones_like(p["y"])
    assert model.ggb_terms(p["x"], white, black)["rec"].item() == pytest.approx(6)
    assert [model.to_log[f"train/rec/{n}"].item() for n in (4, 5, 6)] == [2, 2, 2]
    assert model.g_terms(p["x"], white, p["c"], -white)["rec"].item() == 2


def test_generator_and_critics_want_opposite_things() -> None:
    """sp(-t) for what shall be real, sp(t) for what shall be fake: against signs, sides and halves."""
    model = make()
    p = pieces(model)
    told = iter([torch.full((4, 1), 2.0), torch.full((4, 1), -1.0), torch.full((4, 1), -1.0)])
    model.judge = lambda *_: next(told)  # type: ignore[method-assign]
    model.discriminator_ggb = None
    assert d_terms(model, p)["image"].item() == pytest.approx(0.126928 + 0.313262, abs=1e-6)
    assert model.g_terms(p["x"], p["y"], p["c"], p["image"])["adversarial"].item() == pytest.approx(1.313262, abs=1e-6)


def test_exchanging_target_and_fake() -> None:
    """Changes L_Da by mean D_a(f_y) - mean D_a(f_x-hat), for sp(t) - sp(-t) = t; the two terms do not change places."""
    model = make(levels=[6])
    assert model.discriminator_ggb is not None
    x, y, fake = (downsized(photo, (6,))[0] for photo in (batch()["image"], batch()["target"], batch(seed=2)["image"]))
    block = model.discriminator_ggb["6"]
    said = []
    for real, generated in ((y, fake), (fake, y)):
        a, b = block(x, generated, real).appearance
        said.append((model.real(a) + model.fake(b)).item())
    real, generated = block(x, fake, y).appearance
    assert said[1] - said[0] == pytest.approx((real.mean() - generated.mean()).item(), abs=1e-5)
    assert abs(said[1] - said[0]) > 1e-4


@pytest.mark.parametrize("row", ROWS)
def test_a_row_has_its_networks_and_terms(row: str) -> None:
    model = make(**ROWS[row])
    levels, blocks = ROWS[row].get("levels", [4, 5, 6]), model.discriminator_ggb
    assert list(model.generator.to_rgb) == [str(n) for n in levels]
    p = pieces(model)
    judged, guided = d_terms(model, p), model.ggb_terms(p["x"], p["y"], p["lower"]) if levels else {}
    none = row in ("without GGBs", "multirec")
    critics = [critic for critic in ("rapd", "nvtd") if not none and critic.upper() not in row]
    assert set(judged) == {"image", *critics}
    assert set(guided) == ({"rec", *critics} if levels else set())
    weighted(judged, model.loss["d"])  # it raises where terms and weights disagree
    if levels:
        weighted(guided, model.loss["ggb"])
    assert (blocks is None) == (not critics)
    if blocks is not None:
        assert list(blocks) == [str(n) for n in levels]
        assert [(b.Da is None, b.Dv is None) for b in blocks.values()] == [
            ("rapd" not in critics, "nvtd" not in critics)
        ] * len(levels)


@pytest.mark.parametrize(
    ("row", "blocks"),
    [
        ("ours", 16_190_022),
        ("two", 10_793_348),
        ("one", 5_396_674),
        ("without RAPD", 8_296_515),
        ("without NVTD", 8_296_515),
        ("without GGBs", 0),
        ("multirec", 0),
    ],
)
def test_parameters_of_a_row(row: str, blocks: int) -> None:
    with torch.device("meta"):
        model = make(**ROWS[row], image_size=256, ngf=64, ndf=64)
        net = model.discriminator_ggb
        assert (0 if net is None else sum(p.numel() for p in net.parameters())) == blocks
        for name, inputs in model.examples().items():
            if (net := getattr(model, name)) is not None:
                net(*inputs)


def test_a_null_weight_takes_the_critic_along() -> None:
    for side in ("d", "ggb"):
        model = make(loss=LOSS | {side: LOSS[side] | {"nvtd": None}})
        assert model.discriminator_ggb["6"].Dv is None
        assert model.loss["d"]["nvtd"] is model.loss["ggb"]["nvtd"] is None
        assert set(d_terms(model, pieces(model))) == {"image", "rapd"}
    model = make(loss=LOSS | {"ggb": LOSS["ggb"] | {"rec": None}})
    p = pieces(model)
    assert set(model.ggb_terms(p["x"], p["y"], p["lower"])) == {"rapd", "nvtd"}


def test_every_loss_is_by_name_in_the_sources() -> None:
    joint = make(g_update="joint").loss
    assert {f"{side}.{name}" for loss in (LOSS, joint) for side in loss for name in loss[side]} == set(GGB.SOURCES)


# ---- the pose


def test_the_generator_sees_the_targets_pose_and_the_source() -> None:
    model = make()
    seen: list[Tensor] = []
    model.generator.enc.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    b = batch()
    model.sample(b)
    assert torch.equal(seen[0][:, :3], b["image"])
    assert torch.equal(seen[0][:, 3:], pose_maps(b["target_joints"], S, radius=2.0))


@pytest.mark.parametrize(("kind", "channels"), [("disk", 18), ("gauss", 18), ("stickman", 3)])
def test_pose_maps(kind: str, channels: int) -> None:
    model = make(pose_map=kind)
    assert model.pose(batch()["target_joints"]).shape == (4, channels, S, S)
    assert model.sample(batch()).shape == (4, 3, S, S)


@pytest.mark.parametrize(("d_cond", "channels"), [("none", 3), ("c", 21), ("xc", 24)])
def test_what_the_discriminator_sees(d_cond: str, channels: int) -> None:
    model = make(d_cond=d_cond)
    seen: list[Tensor] = []
    model.discriminator.trunk.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    p = pieces(model)
    d_terms(model, p)
    model.g_terms(p["x"], p["y"], p["c"], p["image"])
    assert [t.shape[1] for t in seen] == [channels] * 3  # real and fake are batches of their own
    for given, photo in zip(seen, (p["y"], p["image"], p["image"]), strict=True):
        assert torch.equal(given[:, :3], photo)
    if d_cond == "xc":
        assert torch.equal(seen[0][:, 3:], torch.cat([p["x"], p["c"]], 1))


# ---- what each loss trains (Sec. 9, check 5)


def test_the_critics_loss_trains_critics_alone() -> None:
    model = make()
    weighted(d_terms(model, pieces(model)), model.loss["d"]).backward()
    assert all(p.grad is None for p in model.generator.parameters())
    nets = [model.discriminator, model.discriminator_ggb]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for net in nets for p in net.parameters())


@pytest.mark.parametrize("term", ["rec", "rapd", "nvtd"])
def test_each_term_of_eq_9_trains_all_but_the_last_level(term: str) -> None:
    model = make()
    p = pieces(model)
    model.ggb_terms(p["x"], p["y"], p["lower"])[term].backward()
    assert reached(model.generator) == parts(model, but="dec.7")


@pytest.mark.parametrize("term", ["adversarial", "rec"])
def test_each_term_of_eq_4_trains_all_but_the_heads(term: str) -> None:
    model = make()
    p = pieces(model)
    model.g_terms(p["x"], p["y"], p["c"], p["image"])[term].backward()
    assert reached(model.generator) == parts(model, but="to_rgb")


# ---- the step (Sec. 9, checks 5 to 7)


@pytest.mark.parametrize(
    ("options", "runs"),
    [
        ({}, (2, 3, 9)),
        ({"g_update": "stale"}, (1, 3, 9)),
        ({"g_update": "joint"}, (1, 3, 9)),
        ({"levels": [6]}, (2, 3, 3)),
        ({"levels": []}, (1, 3, 0)),
        ({"multirec": True}, (2, 3, 0)),
    ],
)
def test_how_often_each_network_runs(options: dict, runs: tuple[int, int, int], tmp_path: Path) -> None:
    """G once for critics and Eq. 9, again for Eq. 4; D on y, x-hat, x-hat; each E on (x, y, x-hat), x and x-hat."""
    model = make(**options)
    ran = {"g": 0, "d": 0, "e": 0}

    def counted(net: nn.Module, name: str) -> None:
        net.register_forward_hook(lambda *_: ran.__setitem__(name, ran[name] + 1))

    counted(model.generator, "g")
    counted(model.discriminator, "d")
    for block in (model.discriminator_ggb or nn.ModuleDict()).values():
        counted(block.E, "e")
    fit(model, tmp_path)
    assert tuple(ran.values()) == runs


@pytest.mark.parametrize("g_update", ["sequential", "stale", "joint"])
def test_who_moves_in_which_update(g_update: str, tmp_path: Path) -> None:
    model = make(g_update=g_update)
    moves: list[tuple[str, set[str], set[str]]] = []
    move = model.move

    def watched(opt: Any, side: str) -> None:
        nets = {name: net for name, net in model.named_children() if name != "ema_generator"}
        graded = {f"{name}.{n}" for name, net in nets.items() for n, p in net.named_parameters() if p.grad is not None}
        held = {f"{name}.{n}" for name, net in nets.items() for n, p in net.named_parameters() if p.requires_grad}
        before = {n: p.detach().clone() for n, p in model.named_parameters()}
        move(opt, side)
        moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
        assert moved <= held
        assert moved <= graded
        moves.append((side, {n for n in moved if n.startswith("generator")}, moved))

    model.move = watched  # type: ignore[method-assign]
    fit(model, tmp_path)
    names = {n for n, _ in model.named_parameters()}
    mine = {n for n in names if n.startswith("generator")}
    heads, top = {n for n in mine if "to_rgb" in n}, {n for n in mine if ".dec.7." in n}
    assert [side for side, *_ in moves] == (["d", "g"] if g_update == "joint" else ["d", "ggb", "g"])
    assert moves[0][2] == names - mine
    if g_update == "joint":
        assert moves[1][2] == mine
    else:
        assert moves[1][2] == mine - top
        assert moves[2][2] == mine - heads


def test_counters_of_adam(tmp_path: Path) -> None:
    """After one step: heads in Eq. 9's only, d7 in Eq. 4's only, the rest of G once in each, critics once."""
    model = make()
    trainer = fit(model, tmp_path)
    names = {p: n for n, p in model.named_parameters()}
    opt_g, opt_low, opt_d = (
        {names[p]: int(state["step"]) for p, state in opt.state.items()} for opt in trainer.optimizers
    )
    mine = {n for n in names.values() if n.startswith("generator")}
    assert opt_g == {n: 1 for n in mine if "to_rgb" not in n}
    assert opt_low == {n: 1 for n in mine if ".dec.7." not in n}
    assert opt_d == {n: 1 for n in set(names.values()) - mine}
    assert trainer.global_step == 1


def by_hand(model: GGB) -> None:
    """The paper's order of updates, one after another, each by plain descent: D, each block, G, G."""
    b = batch(seed=0)
    x, y, c = b["image"], b["target"], model.pose(b["target_joints"])
    *lower, image = model.generator(x, c)
    nets: list[nn.Module] = [model.discriminator, *model.discriminator_ggb.values()]
    xs, ys = downsized(x, model.levels), downsized(y, model.levels)

    def update(cost: Tensor, parameters: list[nn.Parameter]) -> None:
        opt = torch.optim.SGD(parameters, RATE)
        model.zero_grad()
        cost.backward(retain_graph=True)
        opt.step()

    update(
        model.real(model.discriminator(y)) + model.fake(model.discriminator(image.detach())),
        list(nets[0].parameters()),
    )
    for block, small_x, fake, small_y in zip(nets[1:], xs, lower, ys, strict=True):
        f_x, f_y, f_fake = block.E(small_x), block.E(small_y), block.E(fake.detach())
        cost = model.real(block.Da(f_y)) + model.fake(block.Da(f_fake))
        cost = cost + model.real(block.Dv(f_y - f_x)) + model.fake(block.Dv(f_fake - f_x))
        update(cost, list(block.parameters()))
    cost = torch.zeros(())
    for block, small_x, fake, small_y in zip(nets[1:], xs, lower, ys, strict=True):
        f_x, f_fake = block.E(small_x), block.E(fake)
        cost = cost + (small_y - fake).abs().mean()
        cost = cost + 0.01 * model.real(block.Da(f_fake)) + 0.01 * model.real(block.Dv(f_fake - f_x))
    named = list(model.generator.named_parameters())
    update(cost, [p for n, p in named if not n.startswith("dec.7")])
    image = model.generator(x, c)[-1]
    cost = 0.02 * model.real(model.discriminator(image)) + (y - image).abs().mean()
    update(cost, [p for n, p in named if not n.startswith("to_rgb")])


@pytest.mark.usefixtures("float64")
def test_a_step_is_the_papers_sequence_of_updates(tmp_path: Path) -> None:
    """Fused critics equal D's and each block's own updates, and G descends Eq. 9, then Eq. 4 on a new drawing."""
    model = make()
    theirs = copy.deepcopy(model)
    model.__class__ = GGBByGradient
    by_hand(theirs)
    fit(model, tmp_path)
    for (name, p), q in zip(model.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, atol=1e-10, rtol=0, msg=name)


@pytest.mark.usefixtures("float64")
def test_stale_and_joint_agree_where_steps_add_up(tmp_path: Path) -> None:
    """Both take all gradients at the same weights: plain descent brings them to one place, and sequential elsewhere."""
    made = {}
    for g_update in ("sequential", "stale", "joint"):
        model = make(g_update=g_update)
        model.__class__ = GGBByGradient
        fit(model, tmp_path)
        made[g_update] = torch.cat([p.detach().flatten() for p in model.generator.parameters()])
    torch.testing.assert_close(made["stale"], made["joint"], atol=1e-10, rtol=0)
    assert (made["stale"] - made["sequential"]).abs().max() > 1e-5


def test_all_orders_log_the_same_terms(tmp_path: Path) -> None:
    wanted = {f"train/{side}/{name}" for side in ("d", "ggb") for name in LOSS[side]}
    wanted |= {"train/g/adversarial", "train/g/rec", "train/loss_g", "train/loss_d"}
    for g_update in ("sequential", "stale"):
        model = make(g_update=g_update)
        logged: dict[str, Any] = {}
        model.log_dict = lambda values, logged=logged: logged.update(values)  # type: ignore[method-assign]
        fit(model, tmp_path)
        assert wanted <= set(logged)
        assert {f"train/{name}/{n}" for name in ("rec", "rapd", "nvtd", "d_rapd", "d_nvtd") for n in (4, 5, 6)} <= set(
            logged
        )
        assert all(0 <= v <= 1 for name, v in logged.items() if "accuracy" in name)


@pytest.mark.parametrize(
    "options",
    [
        *ROWS.values(),
        {"g_update": "stale"},
        {"g_update": "joint"},
        {"g_update": "joint", "accumulate": 2},
        {"g_update": "stale", "clip.g": 0.1, "clip.d": 0.1, "decay": 0.9},
        {"clip.g": 0.1, "decay": 0.9},
        {"norm": "instance", "discriminator.norm": "none"},
        {"dropout": 0.5},
        {"d_cond": "xc", "discriminator.head": "linear"},
        {"e_trainable": False},
        {"downsize": "bilinear_aa"},
        {"adversarial": "lsgan"},
        {"pose_map": "stickman"},
        {"lr_decay": "linear"},
        {"grad_norm_every": 1},
    ],
)
def test_every_switch_trains(options: dict, tmp_path: Path) -> None:
    model = make(**options)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    fit(model, tmp_path, steps=2)
    still = [n for n, p in model.named_parameters() if torch.equal(p, before[n])]
    assert all(p.isfinite().all() for p in model.parameters())
    frozen = "e_trainable" in options
    assert all(".E." in n and frozen for n in still)
    assert bool(still) == frozen
    if model.ema_generator is not None:
        assert int(model.ema_generator.n_averaged) == 2


def test_the_rate_falls_in_the_second_half(tmp_path: Path) -> None:
    model = make(lr_decay="linear", lr=1e-3)
    seen: list[list[float]] = []
    model.on_train_epoch_start = lambda: seen.append([o.param_groups[0]["lr"] for o in model.optimizers()])  # type: ignore
    fit(model, tmp_path, epochs=4)
    assert [rates[0] for rates in seen] == pytest.approx([1e-3, 1e-3, 1e-3, 0.5e-3])
    assert all(len(set(rates)) == 1 and len(rates) == 3 for rates in seen)


def test_resumed_is_as_if_never_stopped(tmp_path: Path) -> None:
    straight = make()
    fit(straight, tmp_path, steps=2, epochs=2)
    first = make()
    trainer = fit(first, tmp_path, steps=2, epochs=1)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    resumed = make()
    nn.init.zeros_(resumed.generator.dec["7"].conv.weight)
    fit(resumed, tmp_path, steps=2, epochs=2, checkpoint=tmp_path / "last.ckpt")
    for (name, p), q in zip(straight.named_parameters(), resumed.parameters(), strict=True):
        assert torch.equal(p, q), name


def test_bfloat16_agrees_with_float32() -> None:
    model = make()
    found = {}
    for bf16 in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            p = pieces(model)
            terms = d_terms(model, p) | {
                f"g {k}": v for k, v in model.g_terms(p["x"], p["y"], p["c"], p["image"]).items()
            }
            terms |= {f"ggb {k}": v for k, v in model.ggb_terms(p["x"], p["y"], p["lower"]).items()}
        assert all(term.dtype == torch.float32 for term in terms.values())
        found[bf16] = torch.stack(list(terms.values()))
    torch.testing.assert_close(found[True], found[False], rtol=0.05, atol=0.01)


CHOSEN = (
    "generator.norm",
    "discriminator.norm",
    "discriminator.head",
    "d_cond",
    "blocks.downsize",
    "g_update",
    "pose_map",
)


@pytest.mark.parametrize("name", [*CHOSEN, "lr_decay", "adversarial"])
def test_a_choice_that_does_not_exist_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"model.{name}=wgan is not known: "):
        make(**{name: "wgan"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("generator.ngf", 0), ("generator.dropout", 1.0), ("discriminator.ndf", 0.5), ("pose_radius", 0.0)),
        *(("pose_sigma", -1.0), ("average.statistics", 0), ("average.decay", 1.0), ("optimizer.betas", [0.5])),
    ],
)
def test_a_number_out_of_its_range_is_refused(name: str, value: Any) -> None:
    with pytest.raises(UserError, match=rf"^model\.{name}=.* cannot be: "):
        make(**{name: value})


def test_two_updates_do_not_accumulate() -> None:
    with pytest.raises(UserError, match=r"set model\.g_update=joint"):
        make(accumulate=2)
    with pytest.raises(UserError, match="no guiding block of level 7"):
        make(levels=[6, 7])


# ---- it can learn (Sec. 9, check 16)


@pytest.mark.slow
@pytest.mark.parametrize("g_update", ["sequential", "stale", "joint"])
def test_eight_pairs_can_be_learnt_by_heart(g_update: str, tmp_path: Path) -> None:
    model = make(g_update=g_update, ngf=16, ndf=16, lr=2e-4)
    b = batch(8)
    b["target_joints"] = torch.randint(8, S - 8, (8, 18, 2), generator=torch.Generator().manual_seed(3))
    shape = model.pose(b["target_joints"])[:, :3]
    smooth = torch.nn.functional.interpolate(torch.rand(8, 3, 4, 4) * 2 - 1, (S, S), mode="bilinear")
    b["image"], b["target"] = smooth, torch.where(shape > 0, -smooth, smooth)
    seen: list[float] = []
    note = model.note

    def noted(terms: Any, total: Tensor, side: str) -> None:
        seen.extend([float(terms["rec"])] if side == "g" else [])
        note(terms, total, side)

    model.note = noted  # type: ignore[method-assign]
    fit(model, tmp_path, batches=[b] * 300)
    with torch.no_grad():
        trained = model.generator.train()(b["image"], model.pose(b["target_joints"]))[-1]
    assert sum(seen[-20:]) / 20 < 0.1
    assert (trained - model.sample(b)).abs().mean() < 0.1  # running statistics against the batch's own
