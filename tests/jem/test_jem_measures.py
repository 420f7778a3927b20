"""JEM's own numbers: is a picture's source found again, does direction follow the guide; and the monitor's curve."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from common.data.records import Records
from common.metrics.evaluate import Seen
from common.metrics.functions import Features, to_uint8
from jem.measures import Measures, Monitor, compared, flip_gain, partners, retrieval

N, F = 240, 32


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def features(values: Tensor) -> Features:
    return Features(values, values, "net", "0" * 8, "as it is")


def test_the_source_is_found_again_by_its_features_and_by_chance_otherwise() -> None:
    """papers/jem.md, number 23: with guides of other photos guide_r1 is at chance, within two standard deviations."""
    photos, own = drawn(N, F), np.arange(N)
    pictures = photos + 0.3 * drawn(N, F, seed=1)
    assert retrieval(pictures, photos, own)["guide_r1"] > 0.95
    shuffled = retrieval(pictures.roll(7, 0), photos, own)
    assert abs(shuffled["guide_r1"] - 0.01) <= 2 * (0.01 * 0.99 / N) ** 0.5
    assert abs(shuffled["guide_r5"] - 0.05) <= 2 * (0.05 * 0.95 / N) ** 0.5


def test_fewer_photos_than_a_hundred_are_all_candidates() -> None:
    photos = torch.eye(3)
    assert retrieval(photos, photos, np.arange(3)) == {"guide_r1": 1.0, "guide_r5": 1.0}
    assert retrieval(photos[[1, 2, 0]], photos, np.arange(3))["guide_r1"] == pytest.approx(0.0)


def test_partners_are_of_the_class_and_of_any() -> None:
    labels = np.repeat(np.arange(4), [1, 5, 9, 3])
    records = Records("r", None, ("",) * 18, (), labels, tuple("abcd"), np.ones(18, bool))  # type: ignore[arg-type]
    rows = np.arange(18)
    same, shuffled = partners(records, rows, 0)
    assert (labels[same] == labels).all()
    assert (same[1:] != rows[1:]).all()
    assert same[0] == 0  # the only one of its class
    assert (shuffled != rows).all()
    assert sorted(shuffled) == sorted(same) == rows.tolist()


def test_direction_that_follows_the_guide_is_a_gain() -> None:
    x = 0.9 * torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert (flip_gain(x, x.flip(3) + 0.001) > 20).all()
    assert (flip_gain(x, x + 0.001) < -20).all()
    assert flip_gain(x, x).tolist() == [0.0] * 5  # a guide that changes nothing
    assert flip_gain(x, x.flip(3)).isfinite().all()  # and one that is followed to the bit


class Data:
    """Test images of three classes, without pixels."""

    def __init__(self, count: int = 120) -> None:
        labels = np.arange(count) % 3
        self.records = Records("r", None, ("",) * count, (), labels, tuple("abc"), np.ones(count, bool))  # type: ignore[arg-type]

    def rows(self, split: str) -> np.ndarray:
        return np.arange(len(self.records))


class Obedient:
    """Paints its guide, mirrored where the code is, with a tenth of its noise; the sentence is a shade."""

    def __init__(self, count: int = 120) -> None:
        self.photos = (drawn(count, 3, 8, 8, seed=3) / 3).clamp(-0.8, 0.8)
        self.curve: list[dict[str, float]] = []

    def look_up_guide(self, row: Tensor, mirrored: bool = False) -> Tensor:
        return self.photos[row].flip(3) if mirrored else self.photos[row]

    def guide_of(self, batch: Any) -> Tensor:
        return self.look_up_guide(batch["row"])

    def fixed_noise(self, ids: Tensor, seed: int = 0) -> Tensor:
        return torch.stack([drawn(4, seed=seed * 1000 + int(one)) for one in ids])

    def look_up(self, row: Tensor, caption: Tensor) -> Tensor:
        return (row % 3)[:, None].float()

    def normed(self, t: Tensor) -> Tensor:
        return t

    def infer(self, z: Tensor, t: Tensor, v: Tensor) -> Tensor:
        return (v + 0.02 * t[:, :, None, None] + 0.001 * z[:, :1, None, None]).clamp(-1, 1)


def scored(model: Obedient, passes: int = 2) -> tuple[dict[str, Any], Measures]:
    data = Data()
    count = len(data.records)
    options = {"images": passes * count, "seed": 0, "pixels": "round"}
    measure = Measures(model=model, data=data, options=options, files={})  # type: ignore[arg-type]
    made, beside = [], []
    for start in range(0, passes * count, 30):
        pair = torch.arange(start, start + 30)
        batch: Any = {"row": pair % count, "pair": pair, "caption": torch.zeros_like(pair)}
        images = model.infer(model.fixed_noise(pair), model.look_up(pair % count, pair), model.guide_of(batch))
        made.append(to_uint8(images))
        beside.append(measure.update(batch, images, []))
    flat = [features(torch.cat(parts).flatten(1).float()) for parts in (made, beside)]  # type: ignore[arg-type]
    photos = features(to_uint8(model.photos).flatten(1).float())
    seen = Seen(flat[0], flat[1], photos, lambda rows: photos[torch.from_numpy(rows)], True)
    return measure.compute(seen), measure


def test_an_obedient_model_is_seen_to_be_one() -> None:
    """A model that paints its guide: own sources are found, others' and shuffled ones are not (number 23)."""
    numbers, measure = scored(Obedient())
    assert numbers["guide_r1"] > 0.99
    assert numbers["guide_r1_other"] < 0.05
    assert numbers["guide_r1_shuffled"] < 0.05
    assert numbers["flip_gain"] > 20
    assert 0 < numbers["noise_change"] < numbers["text_change"] < numbers["guide_change"]
    assert numbers["fid_other@net"] is not None
    assert measure.protocol()["guide_candidates"] == 100


def test_one_pass_has_no_shuffled_guides_and_says_so() -> None:
    numbers, measure = scored(Obedient(), passes=1)
    assert numbers["guide_r1_shuffled"] is None
    assert any("guide_r1_shuffled" in names for names in measure.protocol()["not_measured"])


def test_the_curve_becomes_table_1() -> None:
    model = Obedient()
    model.curve = [{"epoch": 10.0 * k, "fid_train": 10 + 90 * 2.0**-k, "fid_test": 100.0 - k} for k in range(30)]
    numbers, measure = scored(model)
    assert numbers["convergence_epoch_train"] == 70  # s[0] = 32.5, so within 1.125 of 10
    assert numbers["convergence_epoch_test"] is None
    told = measure.protocol()
    assert (told["curve_train"], told["curve_test"]) == ("converged", "not_converged")
    assert "not converged" in told["not_measured"]["convergence_epoch_test"]
    model.curve = model.curve[:5]
    assert scored(model)[0]["convergence_epoch_train"] is None


def test_pictures_are_compared_with_their_own_photos() -> None:
    photos = features(drawn(60, F))
    found = compared(photos, photos)
    assert found["fid"] < 1e-3
    assert found["guide_r1"] == 1.0
    assert compared(photos, features(drawn(60, F, seed=8)))["guide_r1"] < 0.2


def test_the_monitor_draws_each_row_with_its_own_caption_and_noise() -> None:
    asked: list[tuple[int, int]] = []

    class Watched(Obedient):
        counts, device = torch.tensor([3, 4] * 60), torch.device("cpu")

        def sample(self, batch: Any) -> Tensor:
            asked.extend(zip(batch["row"].tolist(), batch["caption"].tolist(), strict=True))
            return self.photos[batch["row"]]

    model = Watched()
    rows = np.arange(5, 105)
    made = torch.cat(list(Monitor.pictures(model, rows)))
    assert torch.equal(made, to_uint8(model.photos[5:105]))
    assert asked == [(row, row % (3 + row % 2)) for row in range(5, 105)]
