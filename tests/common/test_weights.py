"""State dicts of files: what does not fit is said in a sentence, and no code in them ever runs."""

import pickle
import re
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from common.errors import UserError
from common.weights import KNOWN_FILES, check_settings, load_strict, read_state
from tests.peers.old_weights import Trap


def test_only_num_batches_tracked_may_be_missing() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    fresh = {key: torch.ones_like(value) for key, value in net.state_dict().items()}
    old = {key: value for key, value in fresh.items() if not key.endswith("num_batches_tracked")}
    load_strict(net, old)
    assert torch.equal(net.state_dict()["1.running_mean"], torch.ones(2))
    load_strict(net, fresh, tolerate=())
    with pytest.raises(UserError, match="num_batches_tracked"):
        load_strict(net, old, tolerate=())
    for key in old:
        with pytest.raises(UserError, match=f"missing {key}"):
            load_strict(net, {name: value for name, value in old.items() if name != key})


def test_a_refused_state_changes_nothing() -> None:
    net = nn.Linear(2, 2)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    with pytest.raises(UserError, match="3, 2"):
        load_strict(net, {"bias": torch.zeros(2), "weight": torch.zeros(3, 2)})
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_long_lists_are_cut() -> None:
    with pytest.raises(UserError, match=r"unexpected a0, a1, a2 and 7 more\)"):
        load_strict(nn.Identity(), {f"a{i}": torch.zeros(1) for i in range(10)})


def test_data_parallel_files_load() -> None:
    net = nn.Linear(2, 2)
    load_strict(net, {f"module.{key}": torch.full_like(value, 3) for key, value in net.state_dict().items()})
    assert torch.equal(net.weight, torch.full((2, 2), 3.0))
    inner = nn.ModuleDict({"module": nn.Linear(2, 2, bias=False), "other": nn.Linear(2, 2, bias=False)})
    load_strict(inner, {"module.weight": torch.ones(2, 2), "other.weight": torch.ones(2, 2)})  # a true name


@pytest.mark.parametrize("wrapped", [False, True])
def test_code_in_a_pickle_is_refused_and_not_run(wrapped: bool, tmp_path: Path) -> None:
    path, mark = tmp_path / "trap.pth", tmp_path / "it_ran"
    if wrapped:
        torch.save({"mu.0.weight": Trap(mark)}, path)
    else:
        path.write_bytes(pickle.dumps(Trap(mark), protocol=2))
    with pytest.raises(UserError, match=r"trap\.pth holds pickled objects"):
        read_state(path)
    assert not mark.exists()
    pickle.loads(pickle.dumps(Trap(mark)))
    assert mark.exists()  # the trap was a live one


def test_a_whole_network_is_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "net.pth")
    with pytest.raises(UserError, match="pickled objects"):
        read_state(tmp_path / "net.pth")


def test_what_is_no_state_dict_is_said(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    with pytest.raises(UserError, match="no weights file at"):
        read_state(path)
    for thing in (torch.zeros(2), {}, {"epoch": 3}, [torch.zeros(2)]):
        torch.save(thing, path)
        with pytest.raises(UserError, match=r"is not a state dict|holds a (Tensor|list), no weights"):
            read_state(path)
    torch.save({"a": torch.zeros(1000)}, path)
    whole = path.read_bytes()
    for damaged in (b"", b"<html>Not found</html>", whole[: len(whole) // 2], whole[:10]):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="cannot be read as weights"):
            read_state(path)


def test_other_settings_are_told_as_words_of_the_command() -> None:
    mine = {"image_size": 64, "ngf": 8, "levels": None, "loss.d.part": None, "average.decay": 0.999, "lr": 1.0}
    names = ("image_size", "ngf", "levels", "loss.d.part")
    check_settings(
        mine, mine | {"average.decay": 0.9, "lr": 2.0}, names, "a.pt"
    )  # neither decides which weights there are
    check_settings(mine, {"ngf": 8}, names, "a.pt")
    theirs = {"image_size": 256, "ngf": 8, "levels": [64, 128], "loss.d.part": 1.0, "average.decay": None}
    with pytest.raises(UserError, match=r"a\.pt was made with other settings") as caught:
        check_settings(mine, theirs, names, "a.pt")
    words = "add data.image_size=256 model.levels=[64,128] loss.d.part=1.0 model.average.decay=null to the command."
    assert str(caught.value).endswith(words)


def test_every_public_file_is_known_and_named_by_its_hash() -> None:
    named = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in Path("conf").rglob("*.yaml")]
    words = set(re.findall(r"'unless_weights': '(\w+)'", str(named)))
    assert words
    assert words <= set(KNOWN_FILES)
    for known in KNOWN_FILES.values():
        for name in known.names:
            assert re.fullmatch(rf".*-{known.hash}\.pth", name)
            assert re.fullmatch("[0-9a-f]{8}", known.hash)
