"""Settings: numbers out of range are refused with their full key, and what must fit a needed network goes to it."""

from typing import Any

import pytest

from common.classifier import Classifier
from common.command import composed, composed_need, plain
from common.config import arguments_of, build
from common.errors import UserError
from common.tasks.runs import identity
from finegan.damsm import DAMSM
from finegan.is_network import ISNetwork
from finegan.model import FineGAN
from simgan.model import SIMGAN
from simgan.vse import VSE
from tests.worlds.layouts import refusal
from tests.worlds.settings import settings

CLASSES: dict[str, Any] = {"simgan": SIMGAN, "finegan": FineGAN, "vse": VSE, "damsm": DAMSM}
CLASSES |= {"classifier": Classifier, "is_network": ISNetwork}
GAN: dict[str, list[Any]] = {
    "optimizer.lr": [0.0, -1.0, "fast", True],
    "optimizer.betas": [[0.5], [0.5, 1.0], "abc", 0.5],
    "average.decay": [1.0, -5.0],
    "accumulate": [0, 1.5],
    "clip.g": [-1.0, 0.0],
    "clip.d": [-1.0],
    "grad_norm_every": [-1],
}
WRONG: dict[str, dict[str, list[Any]]] = {
    "simgan": GAN
    | {"relevant_match_prob": [2.0, -0.1], "optimizer.halve_every": [0], "phi.dim": [0]}
    | {"generator.ngf": [0, 1.5], "generator.n_res": [-1], "discriminator.ndf": [0], "discriminator.d_max": [0]},
    "finegan": GAN
    | {"conditions.min_certainty": [0, 5], "conditions.subset_prob": [1.1], "conditions.max_len": [0]}
    | {"match.gammas": [[4.0, 5.0], [4.0, 5.0, 0.0]], "discriminator.mask_fill": [-2.0]}
    | {"generator.ngf": [0], "generator.z_dim": [0], "discriminator.ndf": [0]},
    "vse": {"optimizer.lr": [0.0], "dim": [0], "margin": [-0.1], "bar.times_chance": [-1.0], "views": [0]},
    "damsm": {
        "optimizer.decay": [0.0],
        "optimizer.betas": [[1.0, 0.9]],
        "optimizer.clip_rnn": [-1.0],
        "text.dropout": [1.0],
    },
    "classifier": {"optimizer.lr": [-1.0], "optimizer.momentum": [1.0], "held_out": [1.0], "label_smoothing": [1.0]},
    "is_network": {"optimizer.lr": [0.0], "average.decay": [1.0], "crop": [0.0], "bar.is_train": [[3.5]]},
}


@pytest.mark.parametrize(
    ("model", "key", "value"), [(m, k, v) for m, keys in WRONG.items() for k, values in keys.items() for v in values]
)
def test_a_number_out_of_its_range_is_refused_with_its_key(model: str, key: str, value: object) -> None:
    sizes = {"simgan": {"ngf": 1, "n_res": 1, "ndf": 1}, "finegan": {"ngf": 1, "ndf": 1}}.get(model, {})
    message = refusal(lambda: CLASSES[model](**settings(model, **sizes | {key: value})))
    assert message.startswith(f"model.{key}=")
    assert "cannot be: it is" in message


def test_a_value_that_the_configuration_names_is_taken() -> None:
    assert FineGAN(**settings("finegan", ngf=1, ndf=1, mask_fill=-1)).mask_fill == -1


def test_what_a_class_hands_to_its_base_is_known() -> None:
    assert {"phi", "optimizer", "average", "clip"} <= set(arguments_of(SIMGAN))
    assert "width" not in arguments_of(SIMGAN)
    wrong = {"_target_": "simgan.model.SIMGAN", **settings("simgan"), "width": 3}
    with pytest.raises(UserError, match="has no setting width"):
        build(wrong)


@pytest.mark.parametrize(
    ("model", "need", "mine", "theirs"),
    [("simgan", "text_encoder", "phi.dim", "dim"), ("finegan", "damsm", "code_dim", "code_dim")],
)
def test_a_needed_network_is_made_as_wide_as_it_is_read(model: str, need: str, mine: str, theirs: str) -> None:
    words = [f"model={model}", "data=cub", f"model.{mine}=12"]
    cfg = plain(composed(*words), words)
    assert composed_need(cfg["needs"][need], words)["model"][theirs] == 12


def test_what_leaves_the_weights_as_they_are_is_not_a_runs_identity() -> None:
    def of(*words: str) -> dict[str, Any]:
        return identity(plain(composed("model=simgan", *words), list(words)))

    same = ("model.optimizer.fused=false", "model.generator.recompute=true", "model.text_encoder=null")
    assert of() == of(*same)
    assert of() != of("model.generator.ngf=8")
    assert of() != of("model.optimizer.lr=1.0e-3")
