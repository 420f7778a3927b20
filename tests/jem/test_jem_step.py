"""One training step of JEM and GAN-CLS: losses by hand, what moves, what is shared. papers/jem.md, numbers 4 to 11."""

from typing import Any

import pytest
import torch
from torch import Tensor

from common.errors import UserError
from common.losses import weighted
from jem.extractor import EXTRACTORS
from jem.gan_cls import GANCLS, adversarial, fake, interpolated, real
from jem.model import JEM, guide_shape
from tests.agree import agree
from tests.worlds.settings import settings

pytestmark = pytest.mark.usefixtures("float64")

T, F, N = 12, 128, 6  # of a sentence vector, of a code, photos in the tables


SMALL = {
    **{"image_size": 32, "sentence.dim": T, "sentence.dims": "uni", "text_cache": None, "monitor.images": 4},
    **{"ngf": 4, "z_dim": 3, "ndf": 4, "fused": False, "grad_norm_every": 0},
    **{"generator.text_width": 6, "discriminator.text_width": 6},
}


def gan_cls(**changes: Any) -> GANCLS:
    torch.manual_seed(0)
    return with_tables(GANCLS(**settings("gan_cls", **{**SMALL, "interpolation": "none", **changes})))


def jem(**changes: Any) -> JEM:
    torch.manual_seed(0)
    guides = {"guide.variant": "_tiny", "guide.view": "raw", "grid": 2, "generator.guide_width": 5}
    model = JEM(**settings("jem", **{**SMALL, **guides, **changes}))
    model.codes = model.ready(drawn(2 * N, F, seed=3)).view(N, 2, F).double()
    model.training_rows = torch.arange(N)
    with_tables(model)
    return model


def with_tables(model: GANCLS) -> Any:
    model.table, model.counts = drawn(N, 2, T, seed=4).double(), torch.full((N,), 2)
    return model


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def batch(count: int = 4) -> dict[str, Tensor]:
    rows = torch.arange(count)
    return {
        "image": drawn(count, 3, 32, 32, seed=5).tanh(),
        "other": drawn(count, 3, 32, 32, seed=6).tanh(),
        "row": rows,
        "caption": rows % 2,
        "other_row": (rows + 1) % N,
        "other_caption": rows % 2,
        "flip": rows % 2 == 0,
    }


def logits(*values: float) -> Tensor:
    return torch.tensor(values)


# ---- losses by hand


def d_loss(weights: dict[str, float], scores: dict[str, float]) -> float:
    terms = {name: (real if name == "real" else fake)(logits(score)) for name, score in scores.items()}
    return float(weighted(terms, weights))


@pytest.mark.parametrize(
    ("weights", "scores", "value"),
    [
        ((1.0, 0.5, 0.5), (2.0, -1.0, 0.5), 0.7705973),
        ((1.0, 1.0, 1.0), (2.0, -1.0, 0.5), 1.4142667),
        ((1.0, 0.5, 0.5), (0.0, 0.0, 0.0), 1.3862944),
        ((1.0, 1.0, 1.0), (0.0, 0.0, 0.0), 2.0794415),
    ],
)
def test_what_the_discriminator_minimises(weights: tuple, scores: tuple, value: float) -> None:
    """Number 5."""
    names = ("real", "mismatch", "fake")
    assert abs(d_loss(dict(zip(names, weights, strict=True)), dict(zip(names, scores, strict=True))) - value) < 1e-7


def test_what_the_generator_minimises() -> None:
    """Number 5, and 6: four images of logit 0 and two interpolated ones of logit 1."""
    assert abs(float(adversarial(logits(0.5), 1, 1.0)) - 0.4740770) < 1e-7
    assert abs(float(adversarial(logits(0.0), 1, 1.0)) - 0.6931472) < 1e-7
    assert abs(float(adversarial(logits(0, 0, 0, 0, 1, 1), 4, 1.0)) - 0.5665187) < 1e-7


def test_interpolated_sentences() -> None:
    t = drawn(4, T)
    agree(interpolated(t), (t[:2] + t[2:]) / 2)
    agree(interpolated(t, torch.tensor([[0.25], [-1.0]])), t[:2] + torch.tensor([[0.25], [-1.0]]) * (t[2:] - t[:2]))
    with pytest.raises(UserError, match=r"data\.batch_size even"):
        interpolated(drawn(3, T))


# ---- what a step reads and moves


def terms_of(model: GANCLS, given: dict[str, Tensor], seed: int = 0) -> tuple[dict, dict, Tensor]:
    """D's and G's terms of a batch, and the images, as `training_step` makes them."""
    torch.manual_seed(seed)
    t = model.sentences(given["row"], given["caption"])
    wrong = model.sentences(given["other_row"], given["other_caption"])
    t_all = model.normed(model.with_interpolated(t))
    v, other_v = model.guides(given)  # type: ignore[arg-type]
    images = model.generator(model.noise(len(t_all)), t_all, v)
    d = model.d_terms(given, model.normed(t), model.normed(wrong), images[: len(t)].detach(), v, other_v)  # type: ignore[arg-type]
    return d, model.g_terms(given["image"], images, t_all, len(t), v), images


def test_each_sides_terms_reach_its_own_weights_alone() -> None:
    """Number 7: no weight of G has a gradient from D's terms; nothing of D is in the tables."""
    model = jem()
    d, _, _ = terms_of(model, batch())
    weighted(d, {"real": 1.0, "mismatch": 0.5, "fake": 0.5, "guide": None}).backward()
    assert all(p.grad is None for p in model.generator.parameters())
    assert all(p.grad is not None for p in model.discriminator.parameters())
    model.zero_grad(set_to_none=True)
    model.discriminator.requires_grad_(False)
    _, g, _ = terms_of(model, batch())
    g["adversarial"].backward()
    assert all(p.grad is None for p in model.discriminator.parameters())
    assert all(p.grad.abs().max() > 0 for name, p in model.generator.named_parameters() if "weight" in name)
    assert not any(name.startswith(("extractor", "text_encoder")) for name, _ in model.named_parameters())


def test_sharing_what_d_saw_of_x_changes_nothing() -> None:
    """Number 9: the same loss as of three whole passes."""
    model, given = gan_cls(), batch()
    d, _, images = terms_of(model, given)
    net, t = model.discriminator, model.normed(model.look_up(given["row"], given["caption"]))
    wrong = model.normed(model.look_up(given["other_row"], given["other_caption"]))
    agree(d["real"], real(net(given["image"], t)))
    agree(d["mismatch"], fake(net(given["image"], wrong)))
    agree(d["fake"], fake(net(images.detach(), t)))


def test_the_images_of_ds_turn_serve_gs() -> None:
    """Number 10: the gradient is that of images made again with the same z."""
    grads = []
    for again in (False, True):
        model, given = jem(), batch()
        _, g, _ = terms_of(model, given)
        if again:
            _, g, _ = terms_of(model, given)
        grads.append(torch.autograd.grad(g["adversarial"], list(model.generator.parameters())))
    agree(grads[0], grads[1])


def test_the_guide_is_mirrored_where_the_image_is() -> None:
    """Number 18, in the step: flip picks the second code."""
    model, given = jem(), batch()
    v, other = model.guides(given)  # type: ignore[arg-type]
    assert model.codes is not None
    assert other is None
    agree(v, torch.stack([model.codes[row, int(row % 2 == 0)] for row in range(4)]))


def test_another_guide_is_never_the_own() -> None:
    model = jem(
        loss={"d": {"real": 1.0, "mismatch": 0.3, "fake": 0.3, "guide": 0.3}, "g": {"adversarial": 1.0, "layout": 10.0}}
    )
    given = batch() | {"flip": torch.zeros(4, dtype=torch.bool)}
    seen = set()
    for seed in range(60):
        torch.manual_seed(seed)
        _, other = model.guides(given)  # type: ignore[arg-type]
        assert model.codes is not None
        assert other is not None
        flat = model.codes.flatten(0, 1)
        which = [int((flat == one).all(1).nonzero()[0]) // 2 for one in other]
        assert all(a != b for a, b in zip(which, range(4), strict=True))
        seen |= set(which)
    assert seen == set(range(N))


def test_plus_has_a_fourth_case_and_a_layout() -> None:
    loss = {"d": {"real": 1.0, "mismatch": 0.3, "fake": 0.3, "guide": 0.3}, "g": {"adversarial": 1.0, "layout": 10.0}}
    d, g, images = terms_of(model := jem(loss=loss, **{"discriminator.guide_width": 5}), given := batch())
    assert set(d) == {"real", "mismatch", "guide", "fake"}
    small = [torch.nn.functional.avg_pool2d(x, 2) for x in (images, given["image"])]
    agree(g["layout"], (small[0] - small[1]).abs().mean())
    assert set(model.SOURCES) >= {"d.guide", "g.layout"}


def test_a_code_scaled_by_seven_draws_the_same() -> None:
    """Number 4, through G."""
    model = jem()
    raw = drawn(2, F)
    z, t = drawn(2, 3), drawn(2, T)
    agree(model.infer(z, t, model.ready(raw)), model.infer(z, t, model.ready(7 * raw)))
    assert model.ready(torch.zeros(2, F)).abs().max() == 0


def test_centred_codes_lose_the_mean() -> None:
    model = jem(center=True)
    model.mean = drawn(F, seed=9)
    agree(model.ready(model.mean[None] + 1.0), torch.ones(1, F))


def test_mismatched_images_and_their_absence() -> None:
    model, given = gan_cls(mismatch="image"), batch()
    d, _, _ = terms_of(model, given)
    t = model.normed(model.look_up(given["row"], given["caption"]))
    agree(d["mismatch"], fake(model.discriminator(given["other"], t)))
    without = gan_cls(loss={"d": {"real": 1.0, "mismatch": None, "fake": 1.0}, "g": {"adversarial": 1.0}})
    assert set(terms_of(without, given)[0]) == {"real", "fake"}


def test_interpolation_adds_half_a_batch_that_d_never_sees() -> None:
    """Sec. 6: B/2 more images in G's turn, none in D's."""
    model = gan_cls(interpolation="mean")
    sizes: list[int] = []
    model.discriminator.convs[0].register_forward_hook(lambda _, inputs, __: sizes.append(len(inputs[0])))
    _, _, images = terms_of(model, batch())
    assert len(images) == 6
    assert sizes == [4, 4, 6]


def test_what_the_noise_is() -> None:
    normal, uniform = gan_cls(), gan_cls(noise="uniform")
    many = torch.arange(4000)
    assert abs(float(normal.fixed_noise(many).std()) - 1) < 0.02
    z = uniform.fixed_noise(many)
    assert z.abs().max() <= 1
    assert abs(float(z.std()) - 3**-0.5) < 0.01
    assert abs(float((z < 0.5).double().mean()) - 0.75) < 0.01


def test_the_mean_of_four_captions() -> None:
    model = gan_cls(captions=4)
    model.table = torch.zeros(N, 2, T).double()
    model.table[:, 1] = 1.0
    torch.manual_seed(0)
    t = model.sentences(torch.arange(N), torch.zeros(N, dtype=torch.int64))
    assert set((4 * t[:, 0]).tolist()) <= {0.0, 1.0, 2.0, 3.0}
    assert t.unique().numel() > 1


@pytest.mark.parametrize(("norm", "length"), [("rms", T**0.5), ("zero", 0.0)])
def test_sentence_vectors_as_the_networks_take_them(norm: str, length: float) -> None:
    model = gan_cls(norm=norm)
    agree(model.normed(drawn(3, T)).norm(dim=1), torch.full((3,), length))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sentence.norm": "unit"}, ["model.sentence.norm", "rms"]),
        ({"step.noise": "pink"}, ["model.step.noise", "normal"]),
        ({"step.g_updates": 0}, ["model.step.g_updates"]),
        ({"monitor.every": 0}, ["model.monitor.every"]),
    ],
)
def test_settings_that_cannot_be_are_a_sentence(changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(UserError) as refused:
        gan_cls(**changes)
    assert all(word in str(refused.value) for word in words)


def test_shapes_of_guides() -> None:
    assert guide_shape("random_alexnet", "conv5") == (256, 13, 13)
    assert guide_shape("vgg16", "fc7") == (4096,)
    assert set(EXTRACTORS) >= {"alexnet", "vgg16", "vgg16_bn", "vgg19"}
    with pytest.raises(UserError, match="alexnet"):
        guide_shape("alexnet2", "fc7")
