"""PG2's training: two stages one after the other, its losses by hand, and what D calls a fake."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from common.data.poses import pose_mask
from common.errors import UserError
from common.losses import weighted
from ggb.pg2 import PG2
from tests.worlds.tiny_pairs import PG2_LOSS, S, batch, fit, make_pg2

LN2 = 0.693147


def moved(model: PG2, before: dict[str, Tensor]) -> set[str]:
    """Networks of which some parameter is not as before."""
    names = [n for n, p in model.named_parameters() if not torch.equal(p, before[n])]
    return {name.split(".")[1] if name.startswith("generator") else name.split(".")[0] for name in names}


def weights_of(model: PG2) -> dict[str, Tensor]:
    return {n: p.detach().clone() for n, p in model.named_parameters()}


# ---- the losses by hand


def test_a_discriminator_that_says_nothing() -> None:
    model = make_pg2()
    nn.init.zeros_(model.discriminator.score.weight)
    b = batch()
    terms = model.d_terms(b["image"], b["target"], b["image"])
    assert weighted(terms, PG2_LOSS["d"]).item() == pytest.approx(LN2, abs=1e-6)
    mask = torch.ones(4, 1, S, S)
    mask[2:] = 0
    ones = torch.ones_like(b["target"])
    found = model.g_terms(b["image"], ones, mask, -ones)
    assert {name: term.item() for name, term in found.items()} == pytest.approx(
        {"adversarial": LN2, "rec": 2.0, "body": 1.0}, abs=1e-6
    )
    assert weighted(found, PG2_LOSS["g"]).item() == pytest.approx(LN2 + 50 * 3, abs=1e-4)


def test_source_and_drawing_are_fakes_and_the_target_is_real() -> None:
    """One batch, in the order of PG2's code; the source weighs as much as the drawing."""
    model = make_pg2()
    x, y, fine = (torch.full((2, 3, S, S), float(i)) for i in range(3))
    seen: list[Tensor] = []

    def told(images: Tensor) -> Tensor:
        seen.append(images)
        return torch.tensor([2.0, 2.0, -1.0, -1.0, -3.0, -3.0])

    model.discriminator.forward = told  # type: ignore[method-assign]
    terms = model.d_terms(x, y, fine)
    assert [float(photo.mean()) for photo in seen[0]] == [1, 1, 2, 2, 0, 0]
    assert terms["real"].item() == pytest.approx(0.126928, abs=1e-6)
    assert terms["fake"].item() == pytest.approx((0.313262 + 0.048587) / 2, abs=1e-6)
    adversarial = model.g_terms(x, y, x[:, :1], fine)["adversarial"]  # of the drawing and of the source, as in the code
    assert adversarial.item() == pytest.approx((1.313262 + 3.048587) / 2, abs=1e-6)
    model.g_adversarial = "generated"  # as in the paper
    assert model.g_terms(x, y, x[:, :1], fine)["adversarial"].item() == pytest.approx(1.313262, abs=1e-6)


def test_half_of_the_adversarial_gradient_is_the_sources() -> None:
    """Where D has no norm that the photos share: D(x) does not depend on x-hat_2, and its half moves nothing."""
    model = make_pg2().double()
    for layer in model.discriminator.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eval()
    b = {name: value.double() for name, value in batch().items() if name in ("image", "target")}
    fine = b["image"].flip(0).requires_grad_()
    gradients = []
    for model.g_adversarial in ("both", "generated"):
        term = model.g_terms(b["image"], b["target"], b["image"][:, :1], fine)["adversarial"]
        gradients += torch.autograd.grad(term, [fine])
    torch.testing.assert_close(2 * gradients[0], gradients[1], rtol=1e-10, atol=0)


def test_every_loss_is_by_name_in_the_sources() -> None:
    assert {f"{side}.{name}" for side, terms in PG2_LOSS.items() for name in terms} == set(PG2.SOURCES)


# ---- the step


@pytest.mark.parametrize(("steps", "wanted"), [(2, {"stage1"}), (3, {"stage1", "stage2", "discriminator"})])
def test_stages_follow_each_other(steps: int, wanted: set[str], tmp_path: Path) -> None:
    model = make_pg2(stage1_steps=2)
    before = weights_of(model)
    trainer = fit(model, tmp_path, steps=steps)
    assert moved(model, before) == wanted
    assert trainer.global_step == steps


def test_the_second_stage_leaves_the_first_alone(tmp_path: Path) -> None:
    model = make_pg2(stage1_steps=0)
    before = weights_of(model)
    trainer = fit(model, tmp_path, steps=2)
    assert moved(model, before) == {"stage2", "discriminator"}
    names = {p: n for n, p in model.named_parameters()}
    steps = {names[p]: int(state["step"]) for opt in trainer.optimizers for p, state in opt.state.items()}
    assert steps == {n: 2 for n in names.values() if "stage1" not in n}


@pytest.mark.parametrize(("stage", "runs"), [(1, (1, 0, 0)), (0, (1, 1, 2))])
def test_how_often_each_network_runs(stage: int, runs: tuple[int, int, int], tmp_path: Path) -> None:
    model = make_pg2(stage1_steps=stage)
    ran = [0, 0, 0]
    for i, net in enumerate((model.generator.stage1, model.generator.stage2, model.discriminator)):
        net.register_forward_hook(lambda *_, i=i: ran.__setitem__(i, ran[i] + 1))
    fit(model, tmp_path)
    assert tuple(ran) == runs


def test_each_side_descends_its_own_terms(tmp_path: Path) -> None:
    model = make_pg2(stage1_steps=1)
    seen: list[tuple[str, set[str]]] = []
    note = model.note

    def noted(terms: Any, total: Tensor, side: str) -> None:
        seen.append((side, set(terms)))
        assert total.isfinite()
        note(terms, total, side)

    model.note = noted  # type: ignore[method-assign]
    fit(model, tmp_path, steps=2)
    both = {"rec", "body"}
    assert seen == [("g", both), ("d", {"real", "fake"}), ("g", {"adversarial", *both})]


def test_the_body_of_the_target_counts_twice(tmp_path: Path) -> None:
    """The mask is of the target's pose, and as thick as the model's disks."""
    model = make_pg2(pose_radius=3.0)
    seen: list[Tensor] = []
    distances = model.distances
    model.distances = lambda image, y, mask: (seen.append(mask), distances(image, y, mask))[1]  # type: ignore
    fit(model, tmp_path)
    assert torch.equal(seen[0], pose_mask(batch(seed=0)["target_joints"], S, radius=3.0))
    assert 0 < seen[0].mean() < 1


def test_resumed_between_the_stages_is_as_if_never_stopped(tmp_path: Path) -> None:
    straight = make_pg2(stage1_steps=3)
    fit(straight, tmp_path, steps=2, epochs=3)
    first = make_pg2(stage1_steps=3)
    fit(first, tmp_path, steps=2, epochs=2).save_checkpoint(tmp_path / "last.ckpt")
    resumed = make_pg2(stage1_steps=3)
    fit(resumed, tmp_path, steps=2, epochs=3, checkpoint=tmp_path / "last.ckpt")
    for (name, p), q in zip(straight.named_parameters(), resumed.parameters(), strict=True):
        assert torch.equal(p, q), name


@pytest.mark.parametrize(
    "options",
    [
        {"tf_padding": True},
        {"pose_map": "stickman"},
        {"g_adversarial": "generated"},
        {"lr_decay": "linear"},
        {"accumulate": 2, "clip.g": 0.1, "clip.d": 0.1},
        {"decay": 0.9, "grad_norm_every": 1},
    ],
)
def test_every_switch_trains(options: dict, tmp_path: Path) -> None:
    model = make_pg2(**options)
    before = weights_of(model)
    fit(model, tmp_path, steps=4)
    assert {"stage1", "stage2", "discriminator"} <= moved(model, before)
    assert all(p.isfinite().all() for p in model.parameters())


def test_shapes_for_describe() -> None:
    with torch.device("meta"):
        model = make_pg2(image_size=256, width=128, ndf=64)
        for name, inputs in model.examples().items():
            getattr(model, name)(*inputs)


def test_a_choice_that_does_not_exist_is_refused() -> None:
    for name in ("pose_map", "lr_decay", "g_adversarial"):
        with pytest.raises(UserError, match=f"model.{name}=wgan is not known: "):
            make_pg2(**{name: "wgan"})
    for name, value in {
        "stage1_steps": -1,
        "generator.width": 0,
        "generator.code_dim": 0,
        "discriminator.ndf": 0,
    }.items():
        with pytest.raises(UserError, match=f"model.{name}={value} cannot be: "):
            make_pg2(**{name: value})
