"""From the words of a command to plain values: what is literal, what the files say of their keys, near misses."""

import copy
import os
import subprocess
import sys
from functools import reduce
from itertools import zip_longest
from pathlib import Path

import pytest
import torch
import yaml

from common import command
from common.config import build
from common.errors import UserError
from tests.worlds.tiny import HOME, start

FILES = sorted(f"{group}/{name}" for group in command.groups() for name in command.choices(group))
BARE = {"prepare/scores": ["prepare.layout=pg2", "prepare.method=x"], "data/folder": ["data.root=x"]}


def values(*words: str) -> dict:
    """The plain values of a command line as a shell hands it over."""
    literal = [command.as_it_stands(word) for word in words]
    command.check_words(literal, sweeping=False)
    return command.plain(command.composed(*literal), literal)


# ---- words


@pytest.mark.parametrize(
    "sentence",
    [
        "'tis a bird with red wings",
        'a "red" bird',
        '"red" and "blue',
        "it's no. 1: from (brown) wings, and a {white} crown",
        "a last backslash \\",
        'two before a quote \\\\" and on',
        "[not a list",
        "a bird of ${x} wings",
        "a \\${x} wing",
        "ένα κόκκινο πουλί, 赤い鳥",
        "100% = all",
        "null",
    ],
)
def test_a_sentence_is_taken_as_it_stands(sentence: str) -> None:
    assert values("task=sample", f"text={sentence}")["text"] == sentence


def test_lists_of_sentences_stay_lists() -> None:
    assert values("task=sample", "text=[a red bird,'a, b']")["text"] == ["a red bird", "a, b"]
    assert values("task=sample", 'text="a, b"')["text"] == "a, b"


@pytest.mark.parametrize("name", ["größer", "日本", "it's", "a: b"])
def test_a_name_needs_no_letters_that_hydra_knows(name: str) -> None:
    assert values(f"name={name}")["name"] == name
    assert values(f"paths.runs=/x/{name}")["paths"]["runs"] == f"/x/{name}"


def test_one_word_for_a_list_is_a_list_of_one() -> None:
    assert values("task=report", "numbers=colour_match")["numbers"] == ["colour_match"]
    assert values("task=report", "numbers=[a,b]")["numbers"] == ["a", "b"]
    assert values("task=figure", "images=a.jpg", "texts=red")["images"] == ["a.jpg"]
    assert values("model=ggb", "model.levels=4")["model"]["levels"] == [4]
    assert values("task=sample", "image=a.jpg")["image"] == "a.jpg"  # null in its file: one or several


def test_each_models_file_says_itself_what_it_requires() -> None:
    """A refusal names the models that fit the data without composing each of them."""
    for name in command.choices("model"):
        assert list(command.alone("model", name).requires) == command.composed(f"model={name}").cfg.requires


def test_what_a_needed_network_inherits_is_in_the_data_sets_file() -> None:
    for name in command.choices("data"):
        data = command.composed(f"data={name}", *BARE.get(f"data/{name}", ())).cfg.data
        assert {"source", "captions", "store"} <= set(data.inherited) <= set(data)


def test_a_key_that_went_into_a_group_is_found_by_a_part_of_its_name() -> None:
    with pytest.raises(UserError, match=r"did you mean model\.blocks\.rapd\?"):
        command.check_words(["model=ggb", "model.use_rapd=false"], sweeping=False)


# ---- what the files say


def test_the_values_of_a_comment() -> None:
    assert command.documented("real | procedural (drawn here)") == ["procedural", "real"]
    assert command.documented("of the key points: 256 | crop176 (PATN) | a file") == ["256", "crop176"]
    assert command.documented("Eq. 2, x AND mask on [-1, 1]; -1 = black") == ["-1"]
    assert command.documented("auto: a file, else another; null = none") == ["auto", "null"]
    assert command.documented("ours: not in the paper") == command.documented("StackGAN: 76/64") == []


def words_of(file: str) -> list[str]:
    """What chooses a file, and what it leaves open."""
    group, _, choice = file.partition("/")
    model = ["model=simgan"] if group in ("trainer", "metrics", "logger") else []
    return [f"{group}={choice}", *model, *(["task=prepare"] if group == "prepare" else []), *BARE.get(file, ())]


@pytest.mark.parametrize("file", [file for file in FILES if not file.startswith(("launcher", "table", "preset"))])
def test_every_value_that_a_comment_names_is_accepted(file: str) -> None:
    """The first values of all keys in one command, then the second ones, and so on; a model's, built one by one."""
    named = {one.key: command.documented(one.comment) for one in command.settings(file)}
    for row in zip_longest(*([f"{key}={value}" for value in known] for key, known in named.items())):
        values(*words_of(file), *(word for word in row if word))
    if file.startswith("model/"):
        cfg = values(*words_of(file), "preset=toy")
        nothing = dict.fromkeys(cfg.get("needs", {}))
        for key, known in named.items():
            for value in known if key.startswith("model.") else ():
                model = copy.deepcopy(cfg["model"] | nothing)
                *sections, last = key.split(".")[1:]
                reduce(lambda node, part: node[part], sections, model)[last] = yaml.safe_load(value)
                with torch.device("meta"):
                    build(model)


def test_help_of_a_task_lists_its_keys_with_comments_and_choices() -> None:
    told = command.help_text(["task=figure", "--help"])
    for one in command.settings("task/figure"):
        assert f"{one.key}={one.value}" in told
        assert one.comment in told
    assert "model=simgan: grid, diversity, compare" in told
    assert "pictures.figures.diversity=Fig. 1" in command.help_text(["task=figure", "model=simgan", "--help"])
    assert "paths.runs=runs" in told
    assert "deepfashion" in told
    assert "max_epochs" not in told
    assert "trainer.max_epochs=???" in command.help_text(["trainer=auto"])
    with pytest.raises(UserError, match="did you mean figure"):
        command.help_text(["task=figur", "--help"])


# ---- no torch


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--help"], 0),
        (["task=sample", "--help"], 0),
        (["epochs=3"], 2),
        (["name=../x"], 2),
        (["paths.data=/nonexistent"], 2),
        (["task=report", "paths.runs={}/é"], 2),
    ],
)
def test_what_needs_no_torch_imports_none(words: list[str], code: int, tmp_path: Path) -> None:
    process = start([word.format(tmp_path) for word in words], interpreter=["-X", "importtime"], cwd=tmp_path)
    _, imported = process.communicate(timeout=600)
    assert process.returncode == code, imported
    modules = {line.rpartition("|")[2].strip() for line in imported.splitlines()}
    assert "hydra" in modules
    assert not {"torch", "pytorch_lightning", "wandb"} & modules


def test_a_path_that_the_terminal_has_no_letters_for(tmp_path: Path) -> None:
    """Under LC_ALL=C, without Python's own way around it."""
    code = "import sys, run; sys.argv = ['run.py', '--help']; run.main(); print('/é', '\\udce9')"
    env = os.environ | {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(HOME)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert b"/\\xe9" in done.stdout
