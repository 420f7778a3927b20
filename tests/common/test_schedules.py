"""Rates that end with training: a longer run is another run, or is refused; none goes on at a rate of 0."""

from pathlib import Path

import pytest
import torch

from common import command
from common.blocks import LinearDecay, WarmCosine
from common.tasks.runs import identity
from tests.worlds.tiny import call


def test_the_rate_falls_in_the_second_half() -> None:
    rate = LinearDecay(4)
    assert [rate(epoch) for epoch in range(5)] == [1, 1, 1, 0.5, 0]


def test_warm_up_then_half_a_cosine() -> None:
    rate = WarmCosine(steps=12, epochs=6, warmup_epochs=2)
    assert [rate(step) for step in (0, 3, 4, 8, 12)] == pytest.approx([0.2, 0.8, 1, 0.5, 0])
    assert WarmCosine(steps=12, epochs=2, warmup_epochs=5).warm == 6


@pytest.mark.parametrize(
    ("words", "same"),
    [
        (["model=ggb"], True),
        (["model=ggb", "model.lr_decay=linear"], False),
        (["model=unet", "model.lr_decay=linear"], False),
        (["model=pg2", "model.lr_decay=linear"], False),
        (["model=classifier", "data=cub"], False),
        (["model=simgan", "data=cub"], True),  # halves its rate at fixed epochs
        (["model=damsm", "data=cub"], True),  # falls by a factor an epoch
    ],
)
def test_length_is_what_a_run_is_where_its_rate_depends_on_it(words: list[str], same: bool) -> None:
    short, long = (identity(command.plain(command.composed(*words, f"trainer.max_epochs={n}"), [])) for n in (2, 3))
    assert (short == long) is same


def test_a_longer_run_is_not_gone_on_with_at_a_rate_of_0(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    asked = [f"paths.{name}={tmp_path / name}" for name in ("data", "runs", "artifacts")]
    asked += "model=ggb preset=fast model.lr_decay=linear model.levels=[6]".split()
    asked += "model.generator.ngf=4 model.discriminator.ndf=4".split()
    asked += "data.source=procedural data.procedural.images=16 data.procedural.identities=4 data.image_size=64".split()
    asked += "data.procedural.side=64 data.batch_size=2 trainer=cpu evaluate=false logger=csv name=x".split()
    assert call(monkeypatch, [*asked, "trainer.max_epochs=2"]) == 0
    (folder,) = (tmp_path / "runs" / "ggb-deepfashion").iterdir()
    last = folder / "checkpoints" / "last.ckpt"
    schedules = torch.load(last, weights_only=True)["lr_schedulers"]
    assert [rate for schedule in schedules for rate in schedule["_last_lr"]] == [0, 0, 0]
    for more in (["name=y"], []):  # in a folder of its own, too
        capsys.readouterr()
        assert call(monkeypatch, [*asked, "trainer.max_epochs=4", f"resume={last}", *more]) == 2
        (sentence,) = capsys.readouterr().err.splitlines()
        assert str(last) in sentence
        assert "trainer.max_epochs=2" in sentence
    assert list((tmp_path / "runs" / "ggb-deepfashion").iterdir()) == [folder]
