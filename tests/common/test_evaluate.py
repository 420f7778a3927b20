"""What an evaluation writes when the standard Inception is absent and the images are few."""

import io
import json
from pathlib import Path

import pytest

from common.metrics.evaluate import summary
from common.metrics.evaluation_sets import edits
from common.metrics.functions import DOWN, UP, Meaning
from tests.worlds.squares import squares
from tests.worlds.tiny import call, make_world, words

OWN = "model.arch=alexnet_tiny model.image_size=64 data.image_size=64 data.batch_size=8 trainer.max_epochs=1".split()
SMALL = "[{}]".format(",".join(f"'{word}'" for word in OWN))


@pytest.mark.parametrize("allow", [False, True])
def test_fid_of_few_images_is_withheld_and_the_rest_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allow: bool
) -> None:
    make_world(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    scored = ["metrics.extractor=auto", "metrics.splits=2", f"needs_to_score.classifier.overrides={SMALL}"]
    assert call(monkeypatch, words(tmp_path, *scored, f"metrics.allow_few={allow}".lower())) == 0
    line = json.loads((tmp_path / "runs" / "results.jsonl").read_text().splitlines()[-1])
    numbers, protocol = line["numbers"], line["protocol"]
    assert "fid" not in numbers  # never without the network's name
    assert (numbers["fid@classifier-cub"] is None) is not allow
    assert (numbers["is_mean@classifier-cub"] is None) is not allow
    assert numbers["kid@classifier-cub"] is not None
    assert ("withheld" in protocol) is not allow
    assert protocol["n_real"] == protocol["n_fake"] == 16
    assert len(list((tmp_path / "artifacts").glob("features_cub_classifier-cub-*.pt"))) == 1
    before = (tmp_path / "artifacts").stat().st_mtime
    assert call(monkeypatch, words(tmp_path, "task=evaluate", *scored, f"metrics.allow_few={allow}".lower())) == 0
    again = json.loads((tmp_path / "runs" / "results.jsonl").read_text().splitlines()[-1])["numbers"]
    assert again["kid@classifier-cub"] == pytest.approx(numbers["kid@classifier-cub"], rel=1e-3)
    assert (tmp_path / "artifacts").stat().st_mtime == before  # no network trained, no image embedded again


def test_a_photo_that_cannot_be_read_takes_its_sentences_with_it(tmp_path: Path) -> None:
    data = squares(tmp_path, reads=("image", "caption"))
    data.allow_missing = True
    records, rows = data.records, data.records.rows("test")
    records.images[rows[2]].write_bytes(b"no photo")
    options = {"pairs": None, "pairs_per_image": 2, "seed": 0, "folder": tmp_path, "batch_size": 4}
    chosen = edits(data, options)
    shown = [
        place for batch in chosen.batches for place in zip(batch["other_row"], batch["other_caption"], strict=True)
    ]
    assert len(shown) == 2 * (len(rows) - 1)
    assert list(chosen.text) == [records.captions[row][caption] for row, caption in shown]


NUMBERS: dict[str, float | None] = {
    "fid@net": 31.5,
    "is_mean@net": None,
    "sim": None,
    "mp": None,
    "psnr": 20.0,
    "ssim": 0.75,
    "count": 3,
    "l1": None,
}
PROTOCOL = {"extractor": "net", "withheld": "few images", "not_measured": {"sim, mp": "no judge"}}


def test_a_run_tells_the_papers_own_numbers_first_and_why_others_are_absent() -> None:
    text = summary(NUMBERS, PROTOCOL, {"ssim": UP, "psnr": Meaning("higher", "dB"), "l1": DOWN}).splitlines()
    assert [line.split() for line in text[:4]] == [
        ["ssim", "0.7500", "\u2191"],
        ["psnr", "20.0000", "\u2191", "dB"],
        ["fid@net", "31.5000", "\u2193"],
        ["count", "3"],
    ]
    assert sorted(line.strip() for line in text[4:]) == [
        "not measured: is_mean@net: few images",
        "not measured: l1: there is nothing to measure it on",
        "not measured: sim, mp: no judge",
    ]


def test_a_terminal_without_arrows_has_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    told = summary({"l1": 0.5}, {}, {"l1": DOWN})
    assert told.isascii()
    assert told.endswith("lower is better")
