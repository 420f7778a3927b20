"""What an evaluation writes when the standard Inception is absent and the images are few."""

import json
from pathlib import Path

import pytest

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
