"""The visual-semantic embedding: ranking loss (check 4), retrieval scores, and a fit on coloured squares."""

import logging
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pytorch_lightning import Trainer, seed_everything

from common.classifier import Classifier
from common.errors import UserError
from common.text import FastText, SentenceEncoder, Vocabulary
from simgan.embedding import ColourGrid, TextEncoder, load_judge, load_text_encoder
from simgan.vse import VSE, ranking_cost, ranking_loss, retrieval
from tests.worlds.settings import QUIET, settings
from tests.worlds.squares import squares

# ---- check 4


@pytest.mark.parametrize(("size", "hardest", "cost"), [(64, False, 25.2), (16, False, 6.0), (16, True, 0.4)])
def test_ranking_cost_when_all_are_alike(size: int, hardest: bool, cost: float) -> None:
    alike = torch.ones(size, 5)
    assert ranking_loss(alike, alike * 3, 0.2, hardest).item() == pytest.approx(cost, rel=1e-5)


def test_ranking_cost_by_hand() -> None:
    assert ranking_cost(torch.eye(5), 0.2, False).item() == 0
    assert ranking_loss(torch.eye(5) * 7, torch.eye(5) * 0.1, 0.2, False).item() == 0  # cosine: lengths do not count
    assert ranking_cost(torch.tensor([[0.9, 0.8], [0.5, 0.6]]), 0.2, False).item() == pytest.approx(0.30)
    s = torch.tensor([[0.9, 0.8, 0.75], [0.5, 0.6, 0.1], [0.1, 0.1, 0.9]])
    assert ranking_cost(s, 0.2, False).item() == pytest.approx(0.23333, abs=1e-5)
    assert ranking_cost(s, 0.2, True).item() == pytest.approx(0.21667, abs=1e-5)


def test_ranking_cost_pulls_pairs_together_and_others_apart() -> None:
    s = torch.full((3, 3), 0.5, requires_grad=True)
    ranking_cost(s, 0.2, False).backward()
    assert s.grad is not None
    assert (s.grad.diagonal() < 0).all()
    assert (s.grad[~torch.eye(3, dtype=torch.bool)] > 0).all()


# ---- scores


def test_retrieval_by_hand() -> None:
    """Two images with two sentences each; the second image's sentences lie nearer to the first image."""
    v = torch.eye(2)
    u = F.normalize(torch.tensor([[1.0, 0.0], [1.0, 0.1], [1.0, 0.5], [1.0, 0.6]]), dim=1)
    found = retrieval(v, u, torch.tensor([0, 0, 1, 1]), torch.tensor([4, 9]), chunk=1)
    assert (found["text_r1"], found["text_median_rank"]) == (0.5, 1.5)
    assert (found["image_r1"], found["image_median_rank"]) == (1.0, 1.0)  # u[3] is the sentence nearest to v[1]
    assert found["times_chance"] == (1.0 + 0.5) / 2 * 2
    assert found["class_top1"] == 1.0
    assert found["class_ap50"] == 0.5  # all images are among the 50 nearest, half of them of the class


def test_retrieval_ties_count_against_us() -> None:
    v, u = torch.ones(20, 4) / 2, torch.ones(40, 4) / 2
    found = retrieval(v, u, torch.arange(20).repeat_interleave(2), torch.arange(20))
    assert found["image_r10"] == found["text_r10"] == found["times_chance"] == 0
    perfect = retrieval(torch.eye(20), torch.eye(20), torch.arange(20), torch.arange(20))
    assert perfect["times_chance"] == pytest.approx(20)
    assert perfect["class_ap50"] == pytest.approx(1 / 20)


# ---- encoders


def test_published_sizes() -> None:
    model = VSE(**settings("vse"))
    model.build(Vocabulary(["red", "bird"], max_words=50), 4096)
    assert sum(p.numel() for p in model.text.gru.parameters()) == 541_800
    assert sum(p.numel() for p in model.project.parameters()) == 1_228_800


def test_batches_and_companions_do_not_change_a_sentence() -> None:
    torch.manual_seed(0)
    words = Vocabulary(["a", "red", "bird", "with", "wings"], max_words=50)
    encoder = TextEncoder(vocabulary=words, net=SentenceEncoder(words=7, word_dim=8, dim=6), hash="0")
    sentences = ["a red bird", "bird", "a bird with red wings", "wings"]
    phi = encoder.encode(sentences)
    assert (phi.shape, phi.dtype, phi.requires_grad) == ((4, 6), torch.float32, False)
    torch.testing.assert_close(encoder.encode(sentences, batch_size=1), phi, atol=1e-5, rtol=0)
    assert encoder.unknown("a green bird") == ["green"]
    with pytest.raises(UserError, match="holds no word"):
        encoder.encode(["..."])


# ---- a fit


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("classifier")
    seed_everything(0)
    model = Classifier(
        **settings("classifier", arch="alexnet_tiny", image_size=64, name="adam", lr=1e-3, warmup_epochs=1)
    )
    Trainer(max_epochs=30, **QUIET).fit(model, datamodule=squares(root))
    torch.save(model.export(), root / "classifier.pt")
    return str(root / "classifier.pt")


def fit(root: Path, epochs: int = 1, *, complete: bool = False, **options: Any) -> tuple[VSE, Trainer]:
    seed_everything(0)
    model = VSE(**settings("vse", **{"word_dim": 16, "dim": 32, "views": 2, "lr": 3e-3} | options))
    trainer = Trainer(max_epochs=epochs, default_root_dir=root, **QUIET)
    trainer.fit(model, datamodule=squares(root, reads=("caption",), expected=80 if complete else 100))
    return model, trainer


@pytest.fixture(scope="module")
def fitted(classifier: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[VSE, Path]:
    root = tmp_path_factory.mktemp("vse")
    model, trainer = fit(root, 40, image_encoder=classifier, times_chance=1.0)
    assert trainer.callback_metrics["val/times_chance"] == pytest.approx(model.recall["times_chance"])
    torch.save(model.export(), root / "vse.pt")
    trainer.save_checkpoint(root / "vse.ckpt")
    return model, root


def test_fit_finds_sentences_of_classes_it_never_saw(fitted: tuple[VSE, Path]) -> None:
    """16 images of two classes on two grounds: four images share each sentence."""
    model, _ = fitted
    assert model.recall["class_top1"] > 0.7  # chance 0.5
    assert model.recall["text_r5"] > 0.6  # chance 5/16
    assert model.vocabulary is not None
    assert {"large", "green", "small", "red", "this"} < set(model.vocabulary.words)


def test_judge_and_text_encoder_come_from_one_file(fitted: tuple[VSE, Path]) -> None:
    model, root = fitted
    torch.load(root / "vse.pt", weights_only=True)
    phi, judge = load_text_encoder(root / "vse.pt"), load_judge(root / "vse.pt")
    assert phi.hash == judge.hash
    assert (len(phi.hash), phi.dim) == (8, 32)
    sentences = ["a large green square on light ground", "this dark one is red and small"]
    assert model.vocabulary is not None
    torch.testing.assert_close(phi.encode(sentences), model.text(*model.vocabulary.encode(sentences)).detach())
    u = judge.encode_sentences(sentences)
    torch.testing.assert_close(u, F.normalize(phi.encode(sentences), dim=1))
    data = model.trainer.datamodule  # type: ignore[attr-defined]
    batch = data.move(next(iter(data.eval_loader(reads=("image",)))), "cpu")
    v = judge.train().encode_images(batch["image"])
    torch.testing.assert_close(v.norm(dim=1), torch.ones(16))
    torch.testing.assert_close(v, F.normalize(model.project(model.centre[batch["row"]]), dim=1).detach())
    assert not any(p.requires_grad for p in judge.parameters())


def test_checkpoint_holds_no_frozen_network_and_loads_without_data(fitted: tuple[VSE, Path]) -> None:
    model, root = fitted
    content = torch.load(root / "vse.ckpt", weights_only=True)
    assert {key.split(".")[0] for key in content["state_dict"]} == {"text", "project"}
    again = VSE.load_from_checkpoint(root / "vse.ckpt", weights_only=True)
    assert again.recall == model.recall
    torch.testing.assert_close(again.text.state_dict(), model.text.state_dict())
    torch.save(content | {"suite": {"model": "SIMGAN"}}, root / "other.ckpt")
    with pytest.raises(UserError, match="of SIMGAN, not of VSE"):
        VSE.load_from_checkpoint(root / "other.ckpt", weights_only=True)
    model.on_load_checkpoint(content)  # the same captions
    content["suite"]["vocabulary"].reverse()
    with pytest.raises(UserError, match="vocabulary differ: give the same data"):
        model.on_load_checkpoint(content)


def test_other_files_are_refused(classifier: str) -> None:
    with pytest.raises(UserError, match="holds a classifier, not a vse: give the file that model=vse made"):
        load_text_encoder(classifier)


def test_every_view_is_used_and_its_choice_survives_a_resume(classifier: str, tmp_path: Path) -> None:
    model, trainer = fit(tmp_path, 2, image_encoder=classifier)
    assert (model.table[:, 0] != model.table[:, 1]).any()
    assert model.table[trainer.datamodule.records.test].abs().sum() == 0  # type: ignore[attr-defined]
    fit(tmp_path, 1, image_encoder=classifier)[1].save_checkpoint(tmp_path / "one.ckpt")
    seed_everything(5)
    again = VSE(**dict(model.hparams))
    data = squares(tmp_path, reads=("caption",), expected=100)
    Trainer(max_epochs=2, **QUIET).fit(again, datamodule=data, ckpt_path=tmp_path / "one.ckpt", weights_only=True)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))


def test_image_features_are_dropped_while_it_learns(classifier: str, tmp_path: Path) -> None:
    model, _ = fit(tmp_path, 1, image_encoder=classifier, dropout=0.5)
    seen: list[torch.Tensor] = []
    model.project.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model.log = lambda *_, **__: None  # type: ignore[method-assign, assignment]
    model.table = torch.ones_like(model.table)
    rows = torch.arange(8)
    model.training_step({"row": rows, "caption": torch.zeros_like(rows)}, 0)
    assert set(seen[0].unique().tolist()) == {0.0, 2.0}  # dropped, or doubled to make up for it
    with pytest.raises(UserError, match=r"model\.dropout=1"):
        VSE(**settings("vse", dropout=1.0))


def test_a_useless_encoder_stops_on_whole_data_and_warns_on_partial(
    classifier: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(UserError, match=r"times better than chance, 8 are wanted"):
        fit(tmp_path, image_encoder=classifier, complete=True)
    with caplog.at_level(logging.WARNING, "simgan.vse"):
        fit(tmp_path, image_encoder=classifier)
    assert "going on, since the data are partial, few or drawn" in caplog.text


def test_the_bar_is_no_verdict_on_a_folder_of_few_images(
    classifier: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = VSE(**settings("vse", word_dim=16, dim=32, views=2, image_encoder=classifier))
    data = squares(tmp_path, reads=("caption",), per_class=4, batch_size=8, expected=40)  # all of them, and real
    Trainer(max_epochs=1, default_root_dir=tmp_path, **QUIET).fit(model, datamodule=data)
    assert "4 are wanted; going on, since the data are partial, few or drawn" in caplog.text
    assert model.export()["bar"] == {"times_chance": 10.0}


def test_the_bar_is_asked_again_where_nothing_is_left_to_train(classifier: str, tmp_path: Path) -> None:
    _, trainer = fit(tmp_path, image_encoder=classifier)  # on partial data, so that it is not refused
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    for bar, refused in ((100.0, True), (0.0, False)):
        again = VSE(**settings("vse", word_dim=16, dim=32, views=2, image_encoder=classifier, times_chance=bar))
        later = Trainer(max_epochs=1, default_root_dir=tmp_path, **QUIET)
        whole = squares(tmp_path, reads=("caption",), expected=80)
        later.fit(again, datamodule=whole, ckpt_path=tmp_path / "one.ckpt", weights_only=True)
        if refused:
            with pytest.raises(UserError, match=r"8 are wanted; .*model=vse.*model\.bar\.times_chance"):
                again.export()
        else:
            assert again.export()["bar"] == {"times_chance": 0.0}


def test_what_is_missing_is_named(classifier: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"set model\.image_encoder"):
        fit(tmp_path)
    with pytest.raises(UserError, match=r"model\.text\.words=.* There are learned, vec, fasttext_bin"):
        VSE(**settings("vse", words="glove"))
    with pytest.raises(UserError, match=r"model\.text\.words=vec needs a file"):
        VSE(**settings("vse", words="vec"))
    data = squares(tmp_path, reads=(), captions=())
    with pytest.raises(UserError, match="has no captions"):
        Trainer(max_epochs=1, **QUIET).fit(VSE(**settings("vse", image_encoder=classifier)), datamodule=data)


def test_frozen_word_vectors(classifier: str, tmp_path: Path) -> None:
    vectors = tmp_path / "w.vec"
    vectors.write_text("4 2\nviolet 3 4\nred 1 2\nsquare 5 6\na 7 8\n")
    with pytest.raises(UserError, match=r"have width 2: set model\.text\.word_dim"):
        fit(tmp_path, image_encoder=classifier, words="vec", vectors=str(vectors))
    model, _ = fit(tmp_path, image_encoder=classifier, words="vec", vectors=str(vectors), word_dim=2)
    torch.save(model.export(), tmp_path / "vse.pt")
    encoder = load_text_encoder(tmp_path / "vse.pt")
    assert encoder.unknown("a violet oval") == ["oval"]  # violet: in the file, in no caption
    assert encoder.net.embedding is not None
    assert encoder.net.embedding.weight.tolist() == [[0, 0], [0, 0], [3, 4], [1, 2], [5, 6], [7, 8]]


def test_fasttext_encodes_words_that_no_caption_has(
    classifier: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a stand-in for the optional third-party package: vectors of (length, 1)."""
    package = SimpleNamespace(
        load_model=lambda _: SimpleNamespace(get_word_vector=lambda word: [float(len(word)), 1.0])
    )
    monkeypatch.setitem(sys.modules, "fasttext", package)
    binary = tmp_path / "wiki.en.bin"
    binary.write_bytes(b"x")
    model, _ = fit(tmp_path, image_encoder=classifier, words="fasttext_bin", vectors=str(binary), word_dim=2)
    torch.save(model.export(), tmp_path / "vse.pt")
    encoder = load_text_encoder(tmp_path / "vse.pt")
    assert isinstance(encoder.vocabulary, FastText)
    assert encoder.unknown("an oval") == []
    torch.testing.assert_close(encoder.encode(["an oval"]), encoder.encode(["my head"]))
    assert model.vocabulary is not None
    known = model.text(*model.vocabulary.encode(["a red square"])).detach()
    torch.testing.assert_close(encoder.encode(["a red square"]), known)


# ---- without a network for the images


def test_a_colour_grid_says_which_colour_lies_where() -> None:
    grid = ColourGrid()
    image = torch.full((1, 3, 32, 32), -1.0)
    image[:, 0, 8:16, 24:] = 1.0  # red, in row 1 or 2 and column 6 or 7 of the 8 x 8 cells of 4 pixels
    features, logits = grid.features(image)
    assert (features.shape, logits) == ((1, grid.width), None)
    shares = ((features + 1) / 8) ** 2  # of each colour in each cell
    shares = shares.view(4, 4, 4, 8, 8)  # R, G, B, row, column
    torch.testing.assert_close(shares.sum((0, 1, 2)), torch.ones(8, 8))
    red = torch.zeros(8, 8)
    red[2:4, 6:] = 1
    torch.testing.assert_close(shares[3, 0, 0], red)
    torch.testing.assert_close(shares[0, 0, 0], 1 - red)
    half, _ = grid.features(torch.full((1, 3, 32, 32), -2 / 3))  # between the first two levels on each axis
    torch.testing.assert_close((half.view(4, 4, 4, 8, 8)[:2, :2, :2] + 1) ** 2 / 64, torch.full((2, 2, 2, 8, 8), 0.125))


def test_colours_stand_in_for_a_network(tmp_path: Path) -> None:
    model, _ = fit(tmp_path, 30, image_encoder="colours", times_chance=0)
    assert model.recall["class_top1"] > 0.7  # chance 0.5
    torch.save(model.export(), tmp_path / "vse.pt")
    judge = load_judge(tmp_path / "vse.pt")
    data = model.trainer.datamodule  # type: ignore[attr-defined]
    batch = data.move(next(iter(data.eval_loader(reads=("image",)))), "cpu")
    seen = F.normalize(model.project(model.centre[batch["row"]]), dim=1).detach()
    torch.testing.assert_close(judge.encode_images(batch["image"]), seen)


# ---- what the vectors tell


def test_drawn_sentences_are_probed_and_others_are_not(tmp_path: Path, fitted: tuple[VSE, Path]) -> None:
    assert not [name for name in fitted[0].recall if name.startswith("probe")]
    captions = tuple(
        (f"a {c} bird with {w} wings",) for c in ("red", "blue") for w in ("red", "blue") for _ in range(20)
    )
    seed_everything(0)
    model = VSE(**settings("vse", image_encoder="colours", word_dim=16, dim=32, views=1, lr=3e-3, times_chance=0))
    trainer = Trainer(max_epochs=1, default_root_dir=tmp_path, **QUIET)
    trainer.fit(model, datamodule=squares(tmp_path, reads=("caption",), captions=captions, procedural=True))
    assert {name for name in model.recall if name.startswith("probe")} == {"probe_body", "probe_wing"}
    assert trainer.callback_metrics["val/probe_body"] == model.recall["probe_body"]
