"""One training step of FineGAN: the losses by hand, who ran, who moved, what each term trains."""

from collections.abc import Sequence
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.losses import weighted
from finegan.losses import mismatch
from finegan.model import FineGAN
from tests.agree import agree
from tests.worlds.finegan_world import ATTNGAN, LOSS, SIDE, D, batch, make, records, trained, without
from tests.worlds.layouts import refusal

LN2 = log(2)
PAPER = {
    "d": LOSS["d"] | dict.fromkeys(("real", "cond_real", "fake"), 1.0) | dict.fromkeys(("cond_fake", "mismatch"), 0.5)
}


def pieces(model: FineGAN) -> dict[str, Any]:
    """What a step hands to its terms."""
    b = batch()
    assert model.conditions is not None
    codes = model.conditions.codes(b["row"], None, train=True)
    masks = model.mask_pyramid(b["mask"])
    torch.manual_seed(5)
    z = torch.randn(len(codes.sent), model.z_dim)
    drawn = model.generator(z, codes.sent, codes.words, codes.pad, masks[-1] if model.masked else None)
    ends = [*drawn.images, drawn.mu, drawn.logvar]
    return {
        "batch": b,
        "codes": codes,
        "masks": masks,
        "real": model.pyramid(b["image"]),
        "drawn": drawn,
        "ends": ends,
        "leaves": [end.detach().requires_grad_() for end in ends],
        "other": mismatch(b["label"], model.mismatch),
    }


def d_terms(model: FineGAN, k: int, p: dict[str, Any]) -> dict[str, Tensor]:
    images = p["drawn"].images[k].detach()
    return model.d_terms(k, p["real"][k], images, p["masks"][k], p["codes"].sent, p["other"])


def silence(model: FineGAN) -> None:
    """Every logit becomes 0."""
    for module in [*model.discriminator.modules(), *(model.discriminator_fg or nn.ModuleList()).modules()]:
        if hasattr(module, "outlogits"):
            for parameter in module.outlogits.parameters():
                nn.init.zeros_(parameter)


def total(terms: dict[str, Tensor], weights: dict[str, float | None]) -> float:
    return weighted(terms, {name: weights[name] for name in terms}).item()


def moved(net: nn.Module) -> list[bool]:
    return [p.grad is not None and bool((p.grad != 0).any()) for p in net.parameters()]


# ---- the losses by hand (numbers: all logits 0)


@pytest.mark.parametrize(
    ("loss", "value"),
    [
        (LOSS, 8 * LN2),
        (without("part", "fg", "fg_part"), 2 * LN2),
        (without("part", "fg_part"), 4 * LN2),
        (without("fg_part"), 6 * LN2),
    ],
)
def test_the_discriminators_loss_of_a_stage_by_hand(loss: dict, value: float) -> None:
    model = make(loss=loss)
    silence(model)
    p = pieces(model)
    for k in range(3):
        assert total(d_terms(model, k, p), loss["d"]) == pytest.approx(value, abs=1e-5)
    assert [8 * LN2, 10 * LN2] == pytest.approx([5.5452, 6.9315], abs=1e-4)


def test_unit_weights_of_equation_6_by_hand() -> None:
    model = make()
    silence(model)
    assert total(d_terms(model, 0, pieces(model)), PAPER["d"]) == pytest.approx(6.9315, abs=1e-4)


@pytest.mark.parametrize(
    ("weights", "value"),
    [
        ({"real": 0.5, "cond_real": 0.5, "fake": 0.5, "mismatch": 0.5}, 8 * LN2),
        ({"real": 1.0, "cond_real": 1.0, "fake": 1.0, "mismatch": 1.0}, 10 * LN2),
    ],
)
def test_equation_5_as_printed_keeps_the_totals_at_zero_logits(weights: dict, value: float) -> None:
    loss = without("cond_fake")
    loss = {"d": loss["d"] | weights, "g": loss["g"] | {"cond": None}}
    model = make(loss=loss)
    silence(model)
    p = pieces(model)
    assert total(d_terms(model, 1, p), loss["d"]) == pytest.approx(value, abs=1e-5)
    parts = list(model.g_terms(p["leaves"], p["masks"], p["codes"], p["batch"]["label"]))
    adversarial = sum(total(part, loss["g"]) for part in parts[:3])
    assert adversarial == pytest.approx(12 * LN2, abs=1e-5)


def test_the_generators_adversarial_loss_by_hand() -> None:
    model = make()
    silence(model)
    p = pieces(model)
    parts = list(model.g_terms(p["leaves"], p["masks"], p["codes"], p["batch"]["label"]))
    for part in parts[:3]:
        assert set(part) == {"uncond", "cond", "part", "fg", "fg_part"}
        assert total(part, LOSS["g"]) == pytest.approx(5 * LN2, abs=1e-5)
    assert set(parts[3]) == {"damsm", "kl"}
    assert 15 * LN2 == pytest.approx(10.3972, abs=1e-4)


def test_a_saturating_generator_minimises_equation_7_as_printed() -> None:
    model = make(saturating=True)
    silence(model)
    p = pieces(model)
    part = next(iter(model.g_terms(p["leaves"], p["masks"], p["codes"], p["batch"]["label"])))
    assert part["uncond"].item() == pytest.approx(-LN2)
    part["uncond"].backward(retain_graph=True)


# ---- the pyramids and the foreground (Sec. 3.2)


@pytest.mark.usefixtures("float64")
def test_masks_of_the_stages_are_binary_and_flip_with_their_image() -> None:
    model, mask = make(), batch()["mask"]
    mask[:, :, :, : SIDE // 2] = 0  # not symmetric
    small, half, whole = model.mask_pyramid(mask)
    for m, side in ((small, 16), (half, 32), (whole, 64)):
        assert m is not None
        assert m.shape[-1] == side
        assert set(m.unique().tolist()) <= {0.0, 1.0}
    flipped = model.mask_pyramid(mask.flip(3))
    images = model.pyramid((2 * mask - 1).expand(-1, 3, -1, -1))
    mirrored = model.pyramid((2 * mask - 1).expand(-1, 3, -1, -1).flip(3))
    for a, b in zip((small, half, whole), flipped, strict=True):
        assert a is not None
        assert b is not None
        assert torch.equal(a.flip(3), b)
    for a, b in zip(images, mirrored, strict=True):
        agree(a.flip(3), b)


def test_the_foreground_alone_gets_gradient_and_a_full_mask_changes_nothing() -> None:
    model, p = make(), None
    p = pieces(model)
    leaf, mask = p["leaves"][2], p["masks"][2]
    judge = model.discriminator_fg[2]  # type: ignore[index]
    shown = model.under(leaf, mask)
    (judge.uncond(judge.trunk(shown)).sum() + judge.part(shown, judge.trunk(shown)).sum()).backward()
    away = (mask == 0).expand_as(leaf)
    assert (leaf.grad[away] == 0).all()
    assert (leaf.grad[~away] != 0).any()
    assert torch.equal(model.under(leaf, torch.ones_like(mask)), leaf)
    model.mask_fill = -1.0
    assert (model.under(leaf, mask)[away] == -1).all()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.usefixtures("float64")
def test_without_any_foreground_both_sides_look_alike(training: bool) -> None:
    model = make()
    p = pieces(model)
    leaf, nothing = p["leaves"][2], torch.zeros_like(p["masks"][2])
    judge = model.discriminator_fg[2].train(training)  # type: ignore[index]
    real, fake = (judge.uncond(judge.trunk(model.under(x, nothing))) for x in (p["real"][2], leaf))
    agree(real, fake)
    fake.sum().backward()
    assert (leaf.grad == 0).all()
    assert torch.isfinite(fake).all()


def test_quadrants_without_foreground_can_be_left_out() -> None:
    model = make(part_skip_empty=True)
    scores = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    mask = torch.zeros(1, 1, SIDE, SIDE)
    assert model.of_parts(scores, mask, model.real).item() == 0
    mask[..., : SIDE // 2, SIDE // 2 :] = 1  # top right
    assert model.of_parts(scores, mask, model.real).item() == pytest.approx(F.softplus(torch.tensor(-2.0)).item())
    model.part_skip_empty = False
    assert model.of_parts(scores, mask, model.fake).item() == pytest.approx(F.softplus(scores).mean().item())


# ---- the mismatched condition


def test_a_batch_of_one_class_has_no_mismatch() -> None:
    model = make()
    p = pieces(model)
    p["other"] = mismatch(torch.zeros(6, dtype=torch.int64), "class")
    assert d_terms(model, 0, p)["mismatch"].item() == 0


# ---- who moves


def test_one_pass_of_the_generator_serves_both_sides(tmp_path: Path) -> None:
    model, calls = make(), []
    model.generator.register_forward_hook(lambda *_: calls.append(1))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    trained(model, tmp_path, steps=1)
    assert len(calls) == 1
    still = [
        k
        for k, v in model.state_dict().items()
        if torch.equal(v, before[k]) and not k.startswith("ema_generator") and "running" not in k
    ]
    frozen = [k for k in still if k.startswith(("text_encoder", "image_encoder"))]
    assert still == frozen  # every tensor of G and of the discriminators moved
    encoders = [k for k in before if k.startswith(("text_encoder", "image_encoder"))]
    assert all(torch.equal(model.state_dict()[k], before[k]) for k in encoders)


def test_each_side_leaves_the_other_without_gradients(tmp_path: Path) -> None:
    model, seen = make(), {}
    descend = model.descend

    def watched(opt: Any, terms: Any, weights: Any, side: str, *rest: Any) -> None:
        descend(opt, terms, weights, side, *rest)
        discriminators = nn.ModuleList([model.discriminator, model.discriminator_fg])  # type: ignore[list-item]
        seen[side] = {"g": moved(model.generator), "d": moved(discriminators)}
        if side == "d":
            opt.zero_grad(set_to_none=True)

    model.descend = watched  # type: ignore[method-assign]
    trained(model, tmp_path)
    assert not any(seen["d"]["g"])
    assert all(seen["d"]["d"])
    assert all(seen["g"]["g"])
    assert not any(seen["g"]["d"])


PARTS = ("ca_net", "h_net1", "h_net2", "h_net3", "img_net1", "img_net2", "img_net3", "mask_net")


@pytest.mark.parametrize(
    ("term", "reached"),
    [
        ("damsm", set(PARTS) - {"img_net1", "img_net2"}),
        ("kl", {"ca_net"}),
    ],
)
def test_what_a_term_reaches_in_the_generator(term: str, reached: set[str]) -> None:
    model = make()
    p = pieces(model)
    *_, last = model.g_terms(p["leaves"], p["masks"], p["codes"], p["batch"]["label"])
    last[term].backward()
    ends = [(end, leaf.grad) for end, leaf in zip(p["ends"], p["leaves"], strict=True) if leaf.grad is not None]
    torch.autograd.backward([end for end, _ in ends], [grad for _, grad in ends])
    assert {name for name in PARTS if any(moved(model.generator.get_submodule(name)))} == reached


def test_an_early_stage_trains_no_later_one() -> None:
    model = make()
    p = pieces(model)
    first, *_ = model.g_terms(p["leaves"], p["masks"], p["codes"], p["batch"]["label"])
    total_first = weighted(first, {name: LOSS["g"][name] for name in first})
    total_first.backward()
    p["ends"][0].backward(p["leaves"][0].grad)
    assert not any(
        any(moved(model.generator.get_submodule(name))) for name in ("h_net2", "img_net2", "h_net3", "img_net3")
    )
    assert any(moved(model.generator.img_net1))


def test_without_cond_fake_and_damsm_the_condition_leaves_the_generators_loss() -> None:
    loss = without("cond_fake")
    loss = {"d": loss["d"], "g": loss["g"] | {"cond": None, "damsm": 0.0}}
    model = make(loss=loss)
    p = pieces(model)
    other = p["codes"]._replace(sent=torch.randn_like(p["codes"].sent))

    def cost(codes: Any) -> float:
        parts = model.g_terms(p["leaves"], p["masks"], codes, p["batch"]["label"])
        return sum(total(part, loss["g"]) for part in parts)

    assert cost(p["codes"]) == cost(other)


# ---- the average (AttnGAN's: parameters from the start, the live generator's statistics)


@pytest.mark.usefixtures("float64")
def test_the_average_after_one_step(tmp_path: Path) -> None:
    model = make()
    start = {k: v.clone() for k, v in model.generator.state_dict().items()}
    trained(model, tmp_path)
    assert model.ema_generator is not None
    average, live = model.ema_generator.module.state_dict(), model.generator.state_dict()
    for name, _ in model.generator.named_parameters():
        agree(average[name], 0.999 * start[name] + 0.001 * live[name], name)
    for name, value in model.generator.named_buffers():
        assert torch.equal(average[name], value), name


# ---- every row of Tables 2 and 3 runs


ROWS: dict[str, dict[str, Any]] = {
    "baseline's networks": {"loss": ATTNGAN, "masks": False, "legacy": True, "mismatch": "shift"},
    "attributes": {"loss": ATTNGAN, "masks": False},
    "mask": {"loss": without("part", "fg_part")},
    "part": {},
    "encoder only": {"loss": ATTNGAN},
    "foreground only": {"loss": without("part", "fg_part"), "masks": False},
    "parts of the image": {"loss": without("fg_part")},
    "parts of the foreground": {"loss": without("part")},
    "patch": {"part_mode": "patch"},
    "three levels": {"mask_levels": [16, 32, 64]},
    "skip empty": {"part_skip_empty": True},
    "subsets": {"subset_prob": 0.5},
    "length norm": {"length_norm": True},
}


@pytest.mark.parametrize("row", ROWS)
def test_a_row_trains_and_every_tensor_moves(tmp_path: Path, row: str) -> None:
    model = make(**ROWS[row])
    before = {k: v.clone() for k, v in model.named_parameters() if v.requires_grad}
    trained(model, tmp_path, steps=3)
    assert all(torch.isfinite(v).all() for v in model.parameters())
    assert [k for k, v in model.named_parameters() if k in before and torch.equal(v, before[k])] == []


@pytest.mark.parametrize(
    ("precision", "steps"),
    [
        *[("32-true", 8), ("bf16-mixed", 2)],
        *[pytest.param(*long, marks=pytest.mark.slow) for long in (("32-true", 50), ("bf16-mixed", 10))],
    ],
)
def test_many_steps_stay_finite(tmp_path: Path, precision: str, steps: int) -> None:
    model = trained(make(lr=2e-4), tmp_path, steps=steps, precision=precision)
    assert model.all_finite is not None
    assert bool(model.all_finite)
    assert all(torch.isfinite(v).all() for v in model.parameters())


def test_each_terms_own_gradient_is_measured_when_asked_for(tmp_path: Path) -> None:
    model, seen = make(grad_norm_every=1), {}
    log = model.log_dict
    model.log_dict = lambda values, **options: (seen.update(values), log(values, **options))  # type: ignore[method-assign]
    trained(model, tmp_path)
    norms = {name: float(value) for name, value in seen.items() if "grad_norm" in name}
    wanted = {f"train/d/grad_norm_{name}" for name in LOSS["d"]} | {
        f"train/g/grad_norm_{name}" for name in LOSS["g"] if name != "kl"
    }
    assert set(norms) == wanted
    assert all(value > 0 for value in norms.values())


# ---- sampling


def draw(model: FineGAN, rows: Sequence[int], pairs: Sequence[int]) -> Tensor:
    b = batch()
    model.eval()
    chosen = torch.tensor(rows)
    return model.sample({"row": chosen, "mask": b["mask"][: len(rows)], "pair": torch.tensor(pairs)})


@pytest.mark.usefixtures("float64")
def test_an_images_noise_is_its_own_whatever_the_batch() -> None:
    model = make()
    together, alone = draw(model, [0, 1, 2], [7, 8, 9]), draw(model, [1], [8])
    agree(together[1:2], alone)
    assert together.shape == (3, 3, SIDE, SIDE)
    assert together.abs().max() <= 1
    assert not torch.allclose(draw(model, [1], [9]), alone)


@pytest.mark.usefixtures("float64")
def test_a_free_condition_draws_what_the_rows_own_condition_draws() -> None:
    model = make()
    assert model.conditions is not None
    named = [
        [name for name, on in zip(records().attribute_names, row, strict=True) if on]
        for row in records().attributes[:2]
    ]  # type: ignore[index]
    free, own = model.encode(named), model.codes(torch.arange(2))
    agree(free.sent, own.sent)
    assert free.sent.shape == (2, D)


def test_a_batch_without_masks_is_refused() -> None:
    assert "mask" in refusal(lambda: make().mask_pyramid(None))
    assert make(loss=ATTNGAN, masks=False).mask_pyramid(None) == (None, None, None)


def test_an_unknown_choice_is_refused() -> None:
    assert "part_mode" in refusal(lambda: make(part_mode="corner"))
    assert "inputs" in refusal(lambda: make(inputs="clear"))


def test_numbers_of_the_world() -> None:
    assert np.bincount(records().labels).tolist() == [4, 4, 4, 4]
