"""Training skip-thoughts: the published sizes (check 1), triplets, the loss by hand, and a fit on coloured squares."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pytorch_lightning import Trainer, seed_everything
from torch import Tensor, nn

from common.errors import UserError
from jem.skipthought import FEWEST, Half, SkipThought, cycles, vocabulary
from jem.skipthoughts import load_skipthoughts
from tests.agree import agree
from tests.worlds.settings import QUIET, settings
from tests.worlds.squares import squares

THREE = tuple(
    (f"a {size} {colour} square on {ground} ground", f"this {ground} one is {colour} and {size}", f"it is {colour}")
    for size in ("small", "large")
    for colour in ("red", "green", "blue", "yellow", "purple")
    for ground in ("dark", "light") * 4
)  # of the images of `squares`


# ---- what is learnt from


def test_the_vocabulary_is_of_words_by_frequency_after_the_end_and_the_unknown() -> None:
    captions = ["A red flower .", "a red-ish one.", "a flower isn't it ."]
    assert vocabulary(captions, 1) == ["<eos>", "UNK", ".", "a", "flower", "is", "it", "n't", "one", "red", "red-ish"]
    assert vocabulary(captions[::-1], 2) == ["<eos>", "UNK", ".", "a", "flower"]


def test_a_triplet_is_a_caption_with_its_neighbours_in_a_ring() -> None:
    first, count = np.array([0, 5, 7, 10]), np.array([5, 2, 3, 4])
    found = cycles(first, count, np.random.default_rng(0))
    assert sorted(found[:, 1].tolist()) == [*range(5), *range(7, 14)]  # each once, but for those of too few
    after = {read: after for _, read, after in found.tolist()}
    for before, read, _ in found.tolist():
        assert after[before] == read
    for start, n in ((0, 5), (7, 3), (10, 4)):
        ring = [start]
        for _ in range(n):
            ring.append(after[ring[-1]])
        assert sorted(ring[:n]) == list(range(start, start + n))
        assert ring[n] == start
    assert not np.array_equal(np.sort(found[:, 1]), found[:, 1])  # images mixed
    again = cycles(first, count, np.random.default_rng(1))
    assert {tuple(row) for row in again.tolist()} != {tuple(row) for row in found.tolist()}
    assert cycles(first[:0], count[:0], np.random.default_rng(0)).shape == (0, 3)


# ---- the loss


@pytest.mark.parametrize(
    ("half", "dim", "count"),
    [("uni", 2400, 83_379_600), ("uni", 600, 13_919_400), ("bi", 2400, 74_739_600)],
)
def test_published_sizes(half: str, dim: int, count: int) -> None:
    """Check 1: with 6,000 words 83.4 M parameters, 13.9 M at width 600."""
    with torch.device("meta"):
        net = Half(words=6000, word_dim=620, dim=dim, half=half)
    gru = 3 * dim * (620 + dim + 1)
    encoder = gru if half == "uni" else 13_111_200
    assert sum(p.numel() for p in net.parameters() if p.requires_grad) == count
    assert count == 6000 * 620 + encoder + 2 * gru + (dim + 1) * 6000


def test_weights_begin_as_published() -> None:
    net = Half(words=30, word_dim=20, dim=12, half="bi")
    for gate in net.encoder.weight_hh_l0_reverse.data.chunk(3):  # type: ignore[union-attr]
        torch.testing.assert_close(gate @ gate.T, torch.eye(6))
    for weights in (net.embedding.weight, net.before.weight_ih_l0, net.output.weight):
        assert isinstance(weights, Tensor)
        assert 0.08 < weights.abs().max() <= 0.1
    assert not any(p.any() for name, p in net.named_parameters() if "bias" in name)


SAID = (("a red flower", "red", "a flower is red"), ("it is", "a a a a a", "flower"))
WORDS = ["<eos>", "UNK", "a", "red", "flower", "is", "it"]


def packed(said: tuple[tuple[str, ...], ...]) -> tuple[Tensor, Tensor]:
    rows = [[[WORDS.index(word) for word in one.split()] for one in three] for three in said]
    width = max(len(ids) for three in rows for ids in three) + 1
    ids = torch.tensor([[ids + [0] * (width - len(ids)) for ids in three] for three in rows])
    return ids, torch.tensor([[len(ids) for ids in three] for three in rows])


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("half", ["uni", "bi"])
def test_the_loss_by_hand(half: str) -> None:
    """Each word told from the state and the words before, <eos> last, from zeros first; the mean over all words."""
    torch.manual_seed(0)
    net = Half(words=len(WORDS), word_dim=5, dim=6, half=half)
    ids, lengths = packed(SAID)
    costs, words = torch.zeros(()), 0
    for three, n in zip(ids, lengths.tolist(), strict=True):
        state = net.encoder(net.embedding(three[1, : n[1]])[None])[1].flatten()
        for k, decoder in ((0, net.before), (2, net.after)):
            h, x = state[None], torch.zeros(1, 5)
            for word in three[k, : n[k] + 1]:
                h = decoder(x[None], h[None])[1][0]
                costs = costs + F.cross_entropy(net.output(h), word[None])
                x, words = net.embedding(word[None]), words + 1
    agree(net(ids, lengths), costs / words)


def test_the_second_biases_stay_zero_and_all_else_is_trained() -> None:
    net = Half(words=len(WORDS), word_dim=5, dim=6, half="bi")
    net(*packed(SAID)).backward()
    still = {name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()}
    assert still == {name for name, _ in net.named_parameters() if "bias_hh" in name}


# ---- a fit


def model(**options: Any) -> SkipThought:
    """Check sizes for tests: 16 and 32."""
    few = {"dims": "combine", "word_dim": 16, "dim": 32, "updates": 2, "lr": 1e-2}
    return SkipThought(**settings("skipthought", **few | options))


def fit(
    root: Path, epochs: int = 1, *, world: dict[str, Any] | None = None, **options: Any
) -> tuple[SkipThought, Trainer]:
    seed_everything(0)
    net = model(**options)
    trainer = Trainer(max_epochs=epochs, default_root_dir=root, **QUIET)
    data = squares(root, reads=("caption",), batch_size=16, **{"captions": THREE, "expected": 100} | (world or {}))
    trainer.fit(net, datamodule=data)
    return net, trainer


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> tuple[SkipThought, Path]:
    root = tmp_path_factory.mktemp("skipthought")
    net, trainer = fit(root, 30)
    torch.save(net.export(), root / "skipthought.pt")
    trainer.save_checkpoint(root / "skipthought.ckpt")
    return net, root


def test_vectors_tell_what_captions_of_unseen_images_are_about(fitted: tuple[SkipThought, Path]) -> None:
    net, _ = fitted
    assert set(net.measured) == {"loss_uni", "loss_bi", "gain_uni", "gain_bi"}
    assert min(net.measured["gain_uni"], net.measured["gain_bi"]) > 0.2
    assert net.accepted
    assert net.trainer.callback_metrics["val/gain_uni"].item() == pytest.approx(net.measured["gain_uni"])


def test_the_encoder_comes_from_one_file(fitted: tuple[SkipThought, Path]) -> None:
    net, root = fitted
    torch.load(root / "skipthought.pt", weights_only=True)
    encoder = load_skipthoughts(root / "skipthought.pt")
    assert (encoder.dim, len(encoder.hash)) == (64, 8)
    assert load_skipthoughts(root / "skipthought.pt", "bi").dim == 32
    sentence = "it is red and large"
    ids = torch.tensor([[net.words.index(word) for word in sentence.split()]])
    halves: list[Any] = [net.halves["uni"], net.halves["bi"]]
    states = [half.encoder(half.embedding(ids))[1].transpose(0, 1).flatten(1) for half in halves]
    torch.testing.assert_close(encoder.encode([sentence]), torch.cat([F.normalize(s, dim=1) for s in states], 1))
    assert encoder.unknown("a violet square") == ["violet"]
    torch.save(net.export() | {"kind": "vse"}, root / "other.pt")
    with pytest.raises(UserError, match="holds a vse, not a skipthought: give the file that model=skipthought made"):
        load_skipthoughts(root / "other.pt")


def test_the_halves_are_trained_apart(tmp_path: Path) -> None:
    """Together they become what each becomes alone: neither loss, clipping nor steps mix them."""
    both = model(dims="combine", clip=0.01)
    with torch.no_grad():
        nets = []
        for dims in ("uni", "bi"):
            one = model(dims=dims, clip=0.01)
            one.build(list(WORDS))
            nets.append(one)
        both.build(list(WORDS))
        for one in nets:
            both.halves.load_state_dict(one.halves.state_dict(), strict=False)
    ids, lengths = packed(SAID)
    for net in (both, *nets):
        step(net, ids, lengths)
    for one in nets:
        for name, value in one.halves.state_dict().items():
            torch.testing.assert_close(both.halves.state_dict()[name], value)


def step(net: SkipThought, ids: Tensor, lengths: Tensor) -> None:
    """A training step by plain descent on these triplets, each of one image of three captions."""
    net.ids, net.lengths = ids.flatten(0, 1), lengths.flatten()
    net.first, net.count = np.array([0, 3]), np.array([3, 3])
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], 1.0)
    net.optimizers = lambda: optimizer  # type: ignore[method-assign, assignment, return-value]
    net.manual_backward = lambda loss: loss.backward()  # type: ignore[method-assign, assignment]
    net.log_dict = lambda *_, **__: None  # type: ignore[method-assign, assignment]
    net._trainer = type("Epoch", (), {"current_epoch": 0, "global_rank": 0})()  # type: ignore[assignment]
    net.training_step({"row": torch.arange(2)}, 0)


def test_no_update_is_larger_than_clip() -> None:
    net = model(dims="uni", clip=0.01, updates=1)
    net.build(list(WORDS))
    before = [p.detach().clone() for p in net.parameters()]
    step(net, *packed(SAID))
    moved = torch.stack([(p - old).norm() for p, old in zip(net.parameters(), before, strict=True)]).norm()
    assert moved.item() == pytest.approx(0.01, rel=1e-3)


def test_a_batch_of_images_is_learnt_from_in_so_many_updates(tmp_path: Path) -> None:
    net, trainer = fit(tmp_path, updates=5)  # 64 training images, 16 a batch
    assert trainer.global_step == 4 * 5
    assert net.images_seen == 64


def test_a_resumed_fit_is_the_straight_one(tmp_path: Path) -> None:
    straight, _ = fit(tmp_path, 2)
    fit(tmp_path, 1)[1].save_checkpoint(tmp_path / "one.ckpt")
    again = model()
    data = squares(tmp_path, reads=("caption",), batch_size=16, captions=THREE, expected=100)
    later = Trainer(max_epochs=2, **QUIET)
    later.fit(again, datamodule=data, ckpt_path=tmp_path / "one.ckpt", weights_only=True)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), straight.parameters(), strict=True))


def test_a_checkpoint_loads_without_data_and_only_with_the_same_captions(fitted: tuple[SkipThought, Path]) -> None:
    net, root = fitted
    again = SkipThought.load_from_checkpoint(root / "skipthought.ckpt", weights_only=True)
    assert again.measured == net.measured
    assert all(map(torch.equal, again.halves.state_dict().values(), net.halves.state_dict().values()))
    content = torch.load(root / "skipthought.ckpt", weights_only=True)
    content["suite"]["words"].reverse()
    with pytest.raises(UserError, match="words differ: give the same data"):
        net.on_load_checkpoint(content)


def test_no_pixel_is_read(tmp_path: Path) -> None:
    _, trainer = fit(tmp_path)
    assert not (tmp_path / "store").exists()
    assert "store" not in trainer.datamodule.__dict__  # type: ignore[attr-defined]


# ---- what cannot be


def test_a_useless_encoder_stops_on_whole_data_and_warns_on_partial(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(UserError, match=r"nats a word .*, 9 are wanted.*model\.bar\.gain"):
        fit(tmp_path, world={"expected": 80}, gain=9.0)
    with caplog.at_level(logging.WARNING):
        fit(tmp_path, gain=9.0)
    assert "going on, since the data are partial, few or drawn" in caplog.text


def test_without_held_out_images_nothing_is_measured(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        net, _ = fit(tmp_path, world={"test": np.zeros(80, bool)})
    assert "was not measured" in caplog.text
    assert net.measured == {}


def test_two_captions_an_image_are_too_few(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"no training image of squares .* has {FEWEST} captions.*add captions"):
        fit(tmp_path, world={"captions": tuple(each[:2] for each in THREE)})
    with pytest.raises(UserError, match="has 3 captions"):
        fit(tmp_path, world={"captions": ()})


@pytest.mark.parametrize(
    ("option", "value", "fault"),
    [
        ("dims", "both", r"model\.dims=both"),
        ("dim", 31, r"model\.dim=31 .* model\.dim=32"),
        ("clip", 0.0, r"model\.clip=0"),
    ],
)
def test_settings_that_cannot_be_are_refused(option: str, value: Any, fault: str) -> None:
    with pytest.raises(UserError, match=fault):
        model(**{option: value})
    assert isinstance(model(dims="uni", dim=31), nn.Module)
