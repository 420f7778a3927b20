"""One training step of SIMGAN: who ran, who moved, what each loss trains, and the losses by hand."""

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from common.data.records import Sample
from common.errors import UserError
from common.losses import weighted
from simgan.model import SIMGAN
from tests.agree import agree
from tests.worlds.settings import QUIET, settings

D, SIDE, ROWS = 12, 16, 8
LOSS: dict[str, dict[str, float | None]] = {
    "d": {"real": 1.0, "mismatch": 1.0, "fake": 1.0},
    "g": {"adversarial": 1.0, "cycle": 10.0, "conditioning": 1.0, "identity": None},
}
SIZES: dict[str, Any] = {"image_size": SIDE, "phi.dim": D, "ngf": 8, "n_res": 1, "ca_dim": 6, "ndf": 8, "d_max": 16}


def make(**options: Any) -> SIMGAN:
    """A small SIMGAN with a table of random sentence vectors, two for each of eight images."""
    torch.manual_seed(0)
    model = SIMGAN(
        **settings("simgan", **{**SIZES, "loss": LOSS, "text_dim": 8, "grad_norm_every": 0, "lr": 1e-3} | options)
    )
    model.phi = torch.randn(ROWS, 2, D)
    return model


def batch(count: int = 4) -> Sample:
    generator = torch.Generator().manual_seed(1)
    return {
        "image": torch.rand(count, 3, SIDE, SIDE, generator=generator) * 2 - 1,
        "row": torch.arange(count),
        "caption": torch.zeros(count, dtype=torch.int64),
        "other_row": (torch.arange(count) + 3) % ROWS,
        "other_caption": torch.ones(count, dtype=torch.int64),
    }


class NoText(SIMGAN):
    """The table is given, so nothing is read before the fit."""

    def setup(self, stage: str) -> None:
        pass


def trained(model: SIMGAN, path: Path, steps: int = 1, **options: Any) -> SIMGAN:
    """The model after some steps on one batch, by the real trainer."""
    model.__class__ = NoText
    trainer = pl.Trainer(max_epochs=1, default_root_dir=path, **QUIET | options)
    trainer.fit(model, DataLoader([batch()] * steps, batch_size=None))
    return model


def pieces(model: SIMGAN, eps: Tensor | None = None) -> dict[str, Any]:
    """What a step hands to its terms."""
    b = batch()
    own, wrong = model.look_up(b["row"], b["caption"]), model.look_up(b["other_row"], b["other_caption"])
    c, mu, log_sigma = model.generator.condition(wrong, eps)
    edit = model.generator.edit(b["image"], c)
    back = model.go_back(edit, own)
    return {"x": b["image"], "own": own, "wrong": wrong, "edit": edit, "back": back, "mu": mu, "log_sigma": log_sigma}


def grads(net: nn.Module) -> list[float]:
    return [0.0 if p.grad is None else float(p.grad.abs().sum()) for p in net.parameters()]


def g_terms(model: SIMGAN, eps: Tensor | None = None) -> dict[str, Tensor]:
    p = pieces(model, eps)
    return model.g_terms(target=p.pop("wrong"), **p)


def d_terms(model: SIMGAN) -> dict[str, Tensor]:
    p = pieces(model)
    return model.d_terms(model.discriminator, p["x"], p["own"], p["wrong"], p["edit"], p["wrong"])


# ---- the losses by hand (Eq. 1 to 4)


@pytest.mark.parametrize(
    ("scores", "weights", "value"),
    [
        ((0.5, 0.5, 0.5), (1.0, 1.0, 1.0), 0.75),
        ((0.5, 0.5, 0.5), (1.0, 0.5, 0.5), 0.5),
        ((1.0, 0.0, 0.0), (1.0, 1.0, 1.0), 0.0),
        ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 1.0),
    ],
)
def test_the_discriminators_loss_by_hand(scores: tuple, weights: tuple, value: float) -> None:
    model = make()
    told = iter(scores)
    model.discriminator.head = lambda h, phi: torch.full((4,), next(told))  # type: ignore[method-assign]
    terms = d_terms(model)
    assert weighted(terms, dict(zip(LOSS["d"], weights, strict=True))).item() == pytest.approx(value)


def test_more_mismatches_are_the_own_sentences_of_other_photos() -> None:
    model, heard = make(mismatches=9), []
    model.discriminator.head = lambda h, phi: heard.append(phi) or phi.sum(1)  # type: ignore[method-assign, func-returns-value]
    p = pieces(model)
    terms = model.d_terms(model.discriminator, p["x"], p["own"], p["wrong"], p["edit"], p["wrong"])
    wanted = [p["wrong"], *(p["own"][[(i - k) % 4 for i in range(4)]] for k in (1, 2, 3))]  # of four photos, no more
    assert all(torch.equal(a, b) for a, b in zip(heard[1:5], wanted, strict=True))
    torch.testing.assert_close(terms["mismatch"], torch.stack([phi.sum(1).square().mean() for phi in wanted]).mean())
    with pytest.raises(UserError, match=r"model\.mismatches=0"):
        make(mismatches=0)


@pytest.mark.parametrize(("score", "value"), [(0.5, 0.25), (1.0, 0.0), (0.0, 1.0)])
def test_the_generator_wants_its_edits_called_real(score: float, value: float) -> None:
    model = make()
    model.discriminator.head = lambda h, phi: torch.full((4,), score)  # type: ignore[method-assign]
    assert g_terms(model)["adversarial"].item() == pytest.approx(value)


def test_the_cycle_is_a_mean_over_pixels() -> None:
    model = make()
    p = pieces(model)
    x, back = torch.zeros(4, 3, SIDE, SIDE), torch.full((4, 3, SIDE, SIDE), 0.3)
    terms = model.g_terms(target=p.pop("wrong"), **p | {"x": x, "back": back})
    assert terms["cycle"].item() == pytest.approx(0.3)
    only = {"adversarial": 0.0, "cycle": 10.0, "conditioning": 0.0}
    assert weighted(terms, only).item() == pytest.approx(3.0)


def test_conditioning_is_of_the_target_sentence() -> None:
    model = make()
    before = g_terms(model)["conditioning"].item()
    model.phi[0:4, 0] += 1.0  # own sentences
    assert g_terms(model)["conditioning"].item() == pytest.approx(before)
    model.phi[3:8, 1] += 1.0  # target sentences
    assert g_terms(model)["conditioning"].item() != pytest.approx(before)


# ---- what each loss trains (the table of docs/simgan.md)


def test_the_discriminators_loss_trains_the_discriminator_alone() -> None:
    model = make()
    weighted(d_terms(model), LOSS["d"]).backward()
    assert not any(grads(model.generator))
    assert all(grads(model.discriminator))


def test_the_adversarial_term_reaches_all_of_the_generator() -> None:
    model = make()
    g_terms(model)["adversarial"].backward()
    assert all(grads(model.generator))


def test_conditioning_trains_the_augmentation_alone() -> None:
    model = make()
    g_terms(model)["conditioning"].backward()
    assert all(grads(model.generator.augment))
    names = [n for n, p in model.generator.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0]
    assert names == ["augment.mu.0.weight", "augment.log_sigma.0.weight"]


@pytest.mark.parametrize("still", [True, False])
def test_the_cycle_reaches_sigma_only_through_the_noise(still: bool) -> None:
    model = make()
    eps = torch.zeros(4, 6) if still else torch.randn(4, 6)
    g_terms(model, eps)["cycle"].backward()
    mu, sigma = (
        float(branch[0].weight.grad.abs().sum())
        for branch in (model.generator.augment.mu, model.generator.augment.log_sigma)
    )
    assert mu > 0
    assert (sigma == 0) is still


def test_the_own_sentence_has_no_say_in_sigma() -> None:
    model = make()
    p = pieces(model)
    again = model.go_back(p["edit"].detach(), p["own"])
    torch.nn.functional.l1_loss(again, p["x"]).backward()
    weight = model.generator.augment.log_sigma[0].weight
    assert weight.grad is None or float(weight.grad.abs().sum()) == 0
    assert float(model.generator.augment.mu[0].weight.grad.abs().sum()) > 0


# ---- the step


def test_a_step_runs_each_network_once_for_each_use(tmp_path: Path) -> None:
    model = make()
    ran = {"generator": 0, "trunk": 0, "score": 0}
    model.generator.encoder.register_forward_hook(lambda *_: ran.__setitem__("generator", ran["generator"] + 1))
    model.discriminator.trunk.register_forward_hook(lambda *_: ran.__setitem__("trunk", ran["trunk"] + 1))
    model.discriminator.score.register_forward_hook(lambda *_: ran.__setitem__("score", ran["score"] + 1))
    trained(model, tmp_path)
    assert ran == {"generator": 2, "trunk": 3, "score": 4}  # edit, cycle; x, fake for D, fake for G; two real heads


def test_each_side_moves_in_its_own_descent(tmp_path: Path) -> None:
    model = make()
    seen: list[tuple[str, list[float], list[float]]] = []
    descend = model.descend

    def watched(opt: Any, terms: Any, weights: Any, side: str, batch_idx: int) -> None:
        state = [
            {n: p.detach().clone() for n, p in net.named_parameters()} for net in (model.generator, model.discriminator)
        ]
        before = [grads(net) for net in (model.generator, model.discriminator)]
        descend(opt, terms, weights, side, batch_idx)
        nets = {"g": model.generator, "d": model.discriminator}
        other = "d" if side == "g" else "g"
        index = {"g": 0, "d": 1}
        assert all(not torch.equal(p, state[index[side]][n]) for n, p in nets[side].named_parameters())
        assert all(torch.equal(p, state[index[other]][n]) for n, p in nets[other].named_parameters())
        assert grads(nets[other]) == before[index[other]]
        seen.append((side, before[0], before[1]))

    model.descend = watched  # type: ignore[method-assign]
    trained(model, tmp_path)
    assert [side for side, *_ in seen] == ["d", "g"]


def test_the_running_statistics_describe_the_first_pass(tmp_path: Path) -> None:
    counts = {}
    for when in ("first_pass", "both"):
        model = trained(make(update=when), tmp_path, steps=3)
        counts[when] = int(model.generator.encoder[3].num_batches_tracked)
    assert counts == {"first_pass": 3, "both": 6}


@pytest.mark.usefixtures("float64")
def test_sharing_the_edit_is_the_same_as_drawing_it_again() -> None:
    model = make()
    eps = torch.randn(4, 6)
    shared = pieces(model, eps)["edit"]
    agree(shared, pieces(model, eps)["edit"])


def test_relevant_match_prob_edits_towards_the_own_sentence() -> None:
    own, wrong = torch.zeros(2000, 1), torch.ones(2000, 1)
    assert make().targets(own, wrong).mean().item() == 1
    assert make(relevant_match_prob=0.5).targets(own, wrong).mean().item() == pytest.approx(0.5, abs=0.05)


def test_a_null_weight_leaves_a_term_out_and_identity_can_be_asked_for() -> None:
    assert set(g_terms(make())) == {"adversarial", "cycle", "conditioning"}
    loss = {"d": LOSS["d"], "g": {"adversarial": 1.0, "cycle": None, "conditioning": None, "identity": 5.0}}
    assert set(g_terms(make(loss=loss))) == {"adversarial", "identity"}


@pytest.mark.parametrize(
    "options",
    [
        {"share_generators": False},
        {"conditioning.mode": "mean", "loss": {"d": LOSS["d"], "g": LOSS["g"] | {"conditioning": None}}},
        {"cycle_mode": "sample"},
        {"adversarial": "bce"},
        {"recompute": True},
        {"average.decay": 0.9},
        {"accumulate": 2},
        {"first_kernel": 7, "trunk_skip": True, "res_post_relu": False, "ca_bias": True},
        {"image_skip": True, "recompute": True, "joint_norm": "none", "mismatches": 3},
        {"loss": {"d": LOSS["d"], "g": LOSS["g"] | {"identity": 5.0}}},
        {"relevant_match_prob": 0.5},
        {"grad_norm_every": 1},
    ],
)
def test_every_switch_trains(tmp_path: Path, options: dict) -> None:
    model = make(**options)
    before = {n: p.detach().clone() for n, p in model.named_parameters() if not n.startswith("ema")}
    trained(model, tmp_path, steps=2)
    for name, p in model.named_parameters():
        unused = "log_sigma" in name and (
            options.get("conditioning.mode") == "mean" or name.startswith("generator_back")
        )
        if name.startswith("ema") or unused:  # the way back draws no noise
            continue
        assert p.isfinite().all()
        assert not torch.equal(p, before[name]), name


def test_bfloat16_agrees_with_float32(tmp_path: Path) -> None:
    losses = {}
    for precision in ("32-true", "bf16-mixed"):
        model = make()
        terms: dict[str, float] = {}
        descend = model.descend

        def noted(opt: Any, t: Any, w: Any, side: str, i: int, descend: Any = descend, terms: Any = terms) -> None:
            terms.update({f"{side}.{k}": float(v) for k, v in t.items()})
            assert all(v.dtype == torch.float32 for v in t.values())
            descend(opt, t, w, side, i)

        model.descend = noted  # type: ignore[method-assign]
        torch.manual_seed(3)
        trained(model, tmp_path, precision=precision)
        losses[precision] = terms
    for name, value in losses["32-true"].items():
        assert losses["bf16-mixed"][name] == pytest.approx(value, rel=0.05, abs=0.02), name


def test_the_rate_halves_every_fifty_epochs() -> None:
    model = make(lr=2e-4)
    optimizers, schedulers = model.configure_optimizers()
    rates = []
    for _ in range(600):
        rates.append([o.param_groups[0]["lr"] for o in optimizers])
        for optimizer, scheduler in zip(optimizers, schedulers, strict=True):
            optimizer.step()
            scheduler.step()
    for epoch, rate in {0: 2e-4, 49: 2e-4, 50: 1e-4, 100: 5e-5, 300: 3.125e-6, 599: 9.77e-8}.items():
        assert rates[epoch] == pytest.approx([rate, rate], rel=1e-3)


def test_every_loss_of_the_generator_is_by_name_in_the_sources() -> None:
    assert {f"{side}.{name}" for side, terms in LOSS.items() for name in terms} == set(SIMGAN.SOURCES)


# ---- it can learn


@pytest.mark.slow
def test_the_cycle_can_be_learnt_by_heart(tmp_path: Path) -> None:
    loss = {"d": LOSS["d"], "g": {"adversarial": 0.0, "cycle": 1.0, "conditioning": 0.0, "identity": None}}
    model = make(image_size=64, ngf=16, n_res=2, ca_dim=16, loss=loss, lr=2e-4)
    model.__class__ = NoText
    smooth = torch.nn.functional.interpolate(torch.rand(4, 3, 4, 4) * 2 - 1, (64, 64), mode="bicubic").clamp(-1, 1)
    b = batch() | {"image": smooth}
    seen: list[float] = []
    descend = model.descend

    def noted(opt: Any, t: Any, w: Any, side: str, i: int) -> None:
        seen.extend([float(t["cycle"])] if side == "g" else [])
        descend(opt, t, w, side, i)

    model.descend = noted  # type: ignore[method-assign]
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, default_root_dir=tmp_path, enable_checkpointing=False
    )
    trainer.fit(model, DataLoader([b] * 500, batch_size=None))
    assert sum(seen[-20:]) / 20 < 0.06
    assert seen[0] > 0.25


def test_the_discriminator_can_learn_a_batch_by_heart() -> None:
    model = make(ndf=16, d_max=512, image_size=64, text_dim=128, **{"phi.dim": 300})
    x, fake = torch.rand(8, 3, 64, 64) * 2 - 1, torch.rand(8, 3, 64, 64) * 2 - 1
    own, wrong = torch.randn(8, 300), torch.randn(8, 300)
    opt = torch.optim.Adam(model.discriminator.parameters(), lr=2e-4, betas=(0.5, 0.999))
    lowest = float("inf")
    for _ in range(60):
        loss = weighted(model.d_terms(model.discriminator, x, own, wrong, fake, wrong), LOSS["d"])
        opt.zero_grad()
        loss.backward()
        opt.step()
        lowest = min(lowest, loss.item())  # least squares under Adam spikes, so never the last value
    assert lowest < 0.05


@pytest.mark.parametrize(
    "name",
    [
        *("adversarial", "phi.norm", "batch_norm.update", "batch_norm.eval"),
        *("conditioning.mode", "conditioning.reduction", "conditioning.cycle_mode"),
    ],
)
def test_a_choice_that_does_not_exist_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=rf"model\.{name}=wgan is not known.* There are "):
        make(**{name: "wgan"})
