"""Batches: what an epoch draws, that image and mask are cut alike, ranks, resume, evaluation pairs."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint

from common.data.edit_pairs import make_pairs, read_csv, write_csv
from common.data.module import ImageData
from common.data.readers.folder import Folder
from common.data.records import Records
from common.data.sampling import EpochSampler, other_class
from common.data.windows import rotate
from common.errors import UserError
from tests.worlds.layouts import make_folder

SIZE = 16  # image_size; the store's shorter side is round(16 * 76 / 64) = 19


def own_mask(path: Path, photo: np.ndarray) -> np.ndarray:
    return (photo[..., 0] >= 128).astype(np.uint8)


class Tiny:
    """40 black and white photos that are their own masks: 6 classes of uneven size, the last two for testing."""

    def __init__(self, root: Path, **changes) -> None:
        self.root, self.changes = root, changes

    def read(self) -> Records:
        rng = np.random.default_rng(0)
        labels = np.repeat(np.arange(6), [14, 1, 9, 4, 7, 5])
        self.root.mkdir(exist_ok=True)
        paths = tuple(self.root / f"{i:03d}.png" for i in range(len(labels)))
        for path in paths:
            if not path.exists():
                blobs = np.kron(rng.integers(0, 2, (6, 8)), np.ones((5, 5))) * 255
                Image.fromarray(blobs.astype(np.uint8)).save(path)
        records = Records(
            name="tiny",
            root=self.root,
            keys=tuple(f"{'abcdef'[label]}/{i:03d}" for i, label in enumerate(labels)),
            images=paths,
            labels=labels,
            classes=tuple("abcdef"),
            test=labels >= 4,
            captions=tuple(tuple(f"caption {k}, of {i}" for k in range(1 + i % 10)) for i in range(len(labels))),
            masks=paths,
            read_mask=own_mask,
            attributes=(np.arange(len(labels))[:, None] % (2, 3) == 0).astype(np.uint8),
        )
        return replace(records, **self.changes)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("data") / "tiny"


def data(root: Path, **options) -> ImageData:
    changes = options.pop("changes", {})
    return ImageData(dataset=Tiny(root, **changes), **({"image_size": SIZE, "batch_size": 8} | options))


def sampler_of(**options) -> EpochSampler:
    rng = np.random.default_rng(1)
    labels = np.repeat(np.arange(50), rng.integers(1, 60, 50))
    rows = rng.permutation(len(labels))[: len(labels) * 3 // 4]
    captions = rng.integers(1, 11, len(labels))
    defaults = {"rows": rows, "labels": labels, "captions": captions, "batch_size": 32, "seed": 0, "flip": True}
    return EpochSampler(**(defaults | {"rotate_deg": 0.0} | options))


def stream(loader, epochs=1) -> list[dict[str, torch.Tensor]]:
    batches = []
    for epoch in range(epochs):
        loader.batch_sampler.set_epoch(epoch)
        batches += [{name: value.clone() for name, value in batch.items()} for batch in loader]
    return batches


def same(one: list[dict], two: list[dict]) -> bool:
    return len(one) == len(two) > 0 and all(
        a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a) for a, b in zip(one, two, strict=True)
    )


# --- the draw ---------------------------------------------------------------------------------------------------------


def test_ten_thousand_mismatched_draws_are_of_another_class_and_use_every_caption():
    """papers/simgan.md, check 9."""
    drawn = {name: [] for name in ("row", "caption", "other_row", "other_caption")}
    sampler = sampler_of()
    for epoch in range(100):
        sampler.set_epoch(epoch)
        for draws in sampler:
            for name, values in drawn.items():
                values.append(draws[name])
    row, caption, other, other_caption = (np.concatenate(values) for values in drawn.values())
    assert len(row) >= 10_000
    assert not (sampler.labels[row] == sampler.labels[other]).any()
    for rows, indices in ((row, caption), (other, other_caption)):
        assert (indices < sampler.captions[rows]).all()
        for each in np.unique(rows):
            if (rows == each).sum() > 90:  # all of at most 10 captions have been met: missing one has p < 0.001
                assert set(indices[rows == each]) == set(range(sampler.captions[each]))
    assert set(other) <= set(sampler.rows)


def test_mismatched_row_is_uniform_over_the_other_classes():
    labels, pool = np.array([0, 1, 1, 2, 0, 2, 2]), np.array([6, 1, 0, 3, 2])  # rows 4 and 5 are not in the pool
    others = other_class(np.random.default_rng(0), labels, pool, np.full(60_000, 4))  # class 0: 1, 2, 3, 6 remain
    counts = np.bincount(others, minlength=7)
    assert counts[[0, 4, 5]].tolist() == [0, 0, 0]
    assert np.abs(counts[[1, 2, 3, 6]] / 15_000 - 1).max() < 0.03
    with pytest.raises(UserError, match="all of one class"):
        other_class(np.random.default_rng(0), labels, np.array([1, 2]), np.array([1]))


def test_an_epoch_visits_every_image_once_in_an_order_of_its_own():
    sampler = sampler_of(batch_size=7)
    orders = []
    for epoch in (0, 1, 0):
        sampler.set_epoch(epoch)
        orders.append(np.concatenate([draws["row"] for draws in sampler]))
    assert len(orders[0]) == len(sampler) * 7 > len(sampler.rows) - 7
    assert len(set(orders[0])) == len(orders[0])
    assert set(orders[0]) <= set(sampler.rows)
    assert not np.array_equal(orders[0], orders[1])
    assert np.array_equal(orders[0], orders[2])
    assert not np.array_equal(orders[0], np.concatenate([draws["row"] for draws in sampler_of(batch_size=7, seed=1)]))


def test_flips_are_even_and_a_switch_shifts_no_other_draw():
    draws, plain = sampler_of(rotate_deg=16.0).draw(), sampler_of(flip=False, captions=None).draw()
    assert 0.45 < draws["flip"].mean() < 0.55
    assert 14 < np.abs(draws["angle"]).max() <= 16
    assert plain.keys() == {"row", "u", "v"}
    for name in plain:
        assert np.array_equal(draws[name], plain[name])


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_together_see_the_global_batch(world):
    whole = list(sampler_of())
    parts = [list(sampler_of(rank=rank, world=world)) for rank in range(world)]
    for batch, *shares in zip(whole, *parts, strict=True):
        for name, values in batch.items():
            assert np.array_equal(values, np.concatenate([share[name] for share in shares]))
            assert all(len(share[name]) == 32 // world for share in shares)


# --- batches ----------------------------------------------------------------------------------------------------------


def test_batches_are_the_same_for_any_number_of_workers(root):
    reads = ("image", "mask", "caption", "attributes", "label")
    one, two = (data(root, workers=workers, reads=reads).train_dataloader() for workers in (0, 2))
    assert same(stream(one, 3), stream(two, 3))


def test_a_sample_is_as_the_contract_says(root):
    module = data(root, reads=("image", "mask", "caption", "attributes"), rotate_deg=10.0)
    raw = next(iter(module.train_dataloader()))
    assert raw["image"].dtype == raw["mask"].dtype == torch.uint8
    batch = module.move(raw, "cpu")
    shapes = {name: (tuple(value.shape), value.dtype) for name, value in batch.items()}
    index = ((8,), torch.int64)
    assert shapes == {
        "image": ((8, 3, SIZE, SIZE), torch.float32),
        "mask": ((8, 1, SIZE, SIZE), torch.float32),
        "attributes": ((8, 2), torch.float32),
        "flip": ((8,), torch.bool),
        **dict.fromkeys(("label", "row", "caption", "other_row", "other_caption"), index),
    }
    assert batch["image"].min() >= -1
    assert batch["image"].max() <= 1
    assert set(batch["mask"].unique().tolist()) == {0.0, 1.0}
    assert torch.equal(batch["label"], torch.from_numpy(module.records.labels)[batch["row"]])
    assert torch.equal(batch["attributes"], torch.from_numpy(module.records.attributes)[batch["row"]].float())
    assert raw["image"].dtype == torch.uint8  # the loader's batch is left as it was


@pytest.mark.parametrize("rotate_deg", [0.0, 16.0])
def test_image_and_mask_are_cut_flipped_and_turned_alike(root, rotate_deg):
    """Each photo is drawn as its own mask: after every change they must still agree."""
    module = data(root, reads=("image", "mask"), rotate_deg=rotate_deg, image_size=64)
    flips = 0
    for raw in stream(module.train_dataloader(), 4):
        flips += int(raw["flip"].sum())
        batch = module.move(raw, "cpu")
        bright, mask = (batch["image"][:, :1] > 0).float(), batch["mask"]
        assert (bright == mask).float().mean() >= (0.97 if rotate_deg else 1.0)  # turned edges may round either way
        assert (bright == mask.flip(3)).float().mean() < 0.75
    assert 20 < flips < 70


def test_values_and_flip_by_hand(root):
    module = data(root, reads=("image",))
    raw = next(iter(module.train_dataloader()))
    image = module.move(raw, "cpu")["image"]
    for i in range(len(image)):
        pixels = raw["image"][i].permute(2, 0, 1).double() / 127.5 - 1
        assert torch.allclose(image[i].double(), pixels.flip(2) if raw["flip"][i] else pixels, atol=1e-6)
    assert raw["flip"].any()
    assert not raw["flip"].all()


def test_squashed_images_are_whole_and_flips_are_told(root):
    """papers/jem.md, Sec. 4.5: both sides are resized to S, and a guide has to know which image is mirrored."""
    module = data(root, squash=True, load_ratio=1.0, reads=("image", "mask", "caption"))
    assert {module.store.shape(row) for row in range(len(module.store))} == {(SIZE, SIZE)}
    photo = Image.open(module.records.images[3])
    assert photo.size[0] != photo.size[1]
    whole = np.asarray(photo.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR))
    assert (module.store.image(3) == whole).all()
    assert torch.equal(module.crop_photo(photo), module.move(next(iter(module.eval_loader(rows=[3]))), "cpu")["image"])
    assert data(root).store.folder.name != module.store.folder.name
    assert data(root).records.fingerprint(("image",)) != module.records.fingerprint(("image",))
    batch = module.move(next(iter(module.train_dataloader())), "cpu")
    for row, flip, image in zip(batch["row"].tolist(), batch["flip"].tolist(), batch["image"], strict=True):
        stored = torch.from_numpy(module.store.image(row).copy()).permute(2, 0, 1) / 127.5 - 1
        assert torch.equal(image, stored.flip(2) if flip else stored)


def test_windows_reach_every_offset_and_no_further(root):
    """19 x 25 in the store: tops 0 to 3, lefts 0 to 9."""
    module = data(root, reads=("image",), flip=False)
    height, width = module.store.shape(0)
    assert (height, width) == (19, 25)
    whole = module.store.window(0, 0, 0, 25).astype(int)
    seen = set()
    for u in np.linspace(0, 1, 60, endpoint=False):
        for v in np.linspace(0, 1, 24, endpoint=False):
            draws = {"row": np.array([0]), "u": np.array([u]), "v": np.array([v])}
            window = module._windows(("image",)).batch(draws)["image"][0].numpy()
            places = [(t, s) for t in range(4) for s in range(10) if (whole[t : t + 16, s : s + 16] == window).all()]
            assert len(places) == 1
            seen |= set(places)
    assert len(seen) == 40


def test_rotation_turns_counterclockwise_and_reflects():
    x = torch.rand(2, 3, 8, 8)
    turned = rotate(x, torch.tensor([90.0, 0.0]))
    assert torch.allclose(turned[0], x[0].rot90(1, (1, 2)), atol=1e-5)
    assert torch.allclose(turned[1], x[1], atol=1e-5)
    assert torch.allclose(rotate(torch.ones(1, 1, 9, 9), torch.tensor([30.0])), torch.ones(1, 1, 9, 9), atol=1e-5)


def test_without_pixels_no_image_is_touched(tmp_path):
    absent = tuple(tmp_path / f"none-{i}.jpg" for i in range(40))
    module = data(tmp_path / "tiny", reads=("caption", "attributes"), changes={"images": absent, "masks": ()})
    module.prepare_data()
    batch = module.move(next(iter(module.train_dataloader())), "cpu")
    assert batch.keys() == {"row", "label", "caption", "other_row", "other_caption", "attributes", "flip"}
    assert next(iter(module.eval_loader())).keys() == {"row", "label", "caption", "attributes"}
    assert not (tmp_path / "tiny" / ".store").exists()


def test_evaluation_takes_the_centre_in_file_order(root):
    module = data(root, reads=("image", "mask"))
    batches = [module.move(batch, "cpu") for batch in module.eval_loader("test", batch_size=5)]
    assert torch.cat([batch["row"] for batch in batches]).tolist() == list(range(28, 40))
    for batch in batches:
        for image, row in zip(batch["image"], batch["row"].tolist(), strict=True):
            photo = Image.open(module.records.images[row])
            assert torch.allclose(module.crop_photo(photo)[0], image)
            small = np.asarray(photo.convert("RGB").resize((25, 19), Image.Resampling.BILINEAR))
            assert torch.allclose(
                image, torch.from_numpy(small[2:18, 5:21] / 127.5 - 1).permute(2, 0, 1).float(), atol=1e-6
            )
    (one,) = module.eval_loader(rows=np.array([7, 3]))
    assert one["row"].tolist() == [7, 3]


def test_views_repeat_by_number_and_do_not_depend_on_the_rows_asked_for(root):
    module = data(root)
    rows = module.rows("train")

    def cuts(view: int, rows: np.ndarray, **options) -> torch.Tensor:
        batches = data(root, **options).view_loader(rows, view, 5)
        return torch.cat([module.move(batch, "cpu")["image"] for batch in batches])

    first = cuts(0, rows)
    assert torch.equal(first, cuts(0, rows, reads=("caption",), workers=2))
    assert torch.equal(first[[4, 2]], cuts(0, rows[[4, 2]]))
    assert not torch.equal(first, cuts(1, rows))
    assert not torch.equal(first, cuts(0, rows, seed=1))


def test_loaders_take_nothing_from_the_runs_generator(root):
    before = torch.get_rng_state()
    module = data(root)
    for loader in (module.train_dataloader(), module.eval_loader()):
        list(loader)
    assert torch.equal(before, torch.get_rng_state())


def test_unreadable_images_are_left_out_everywhere(tmp_path, caplog):
    records = Tiny(tmp_path / "tiny").read()
    for row in (3, 30):
        whole = records.images[row].read_bytes()
        records.images[row].write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"003\.png"):
        data(tmp_path / "tiny").prepare_data()
    module = data(tmp_path / "tiny", batch_size=9, allow_missing=True)
    batches = stream(module.train_dataloader())
    rows = torch.cat([batch["row"] for batch in batches]).tolist()
    assert sorted(rows) == [row for row in range(28) if row != 3]
    assert 3 not in torch.cat([batch["other_row"] for batch in batches]).tolist()
    assert "2 of 40 images are left out" in caplog.text
    for loader in (
        module.eval_loader("all"),
        module.pair_loader(make_pairs(module.records)),
        module.view_loader(module.records.rows("all"), 0),
    ):
        seen = torch.cat([batch["row"] for batch in loader]).tolist()
        assert seen
        assert not {3, 30} & set(seen)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"batch_size": 29}, r"28 images in the train split of tiny.*data\.batch_size=28 or less"),
        ({"changes": {"labels": np.zeros(40, np.int64)}}, "of one class"),
        ({"changes": {"captions": ()}}, "has no captions"),
        ({"reads": ("image", "mask"), "changes": {"masks": ()}}, "has no masks"),
        ({"reads": ("attributes",), "changes": {"attributes": None}}, "has no attributes"),
        ({"bbox_crop": True}, "no bounding boxes"),
        ({"reads": ("imag",)}, r"data\.reads names imag: choose from image"),
    ],
)
def test_what_a_user_can_get_wrong_is_a_sentence(root, options, sentence):
    with pytest.raises(UserError, match=sentence):
        data(root, **options).train_dataloader()


# --- under Lightning --------------------------------------------------------------------------------------------------


class Diary(LightningModule):
    """Notes what each step was given. Its one weight moves with the rows, so checkpoints differ."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.notes: list[tuple] = []

    def training_step(self, batch, batch_idx):
        assert batch["image"].shape == (4, 3, SIZE, SIZE)
        cut = round(batch["image"].double().sum().item(), 3)
        self.notes.append((self.current_epoch, batch_idx, batch["row"].tolist(), batch["other_row"].tolist(), cut))
        return (self.weight - batch["row"].float().mean()).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(root: Path, folder: Path, epochs: int, *, workers: int, resume: Path | None = None, stop: int = -1) -> Diary:
    diary = Diary()
    trainer = Trainer(
        max_epochs=epochs,
        max_steps=stop,
        accelerator="cpu",
        use_distributed_sampler=False,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[ModelCheckpoint(folder, filename="{step}", every_n_train_steps=1, save_top_k=-1)],
    )
    module = data(root, batch_size=4, workers=workers)
    trainer.fit(diary, datamodule=module, ckpt_path=resume)
    return diary


@pytest.mark.parametrize("workers", [0, 2])
def test_resumed_run_sees_the_very_batches_of_a_straight_one(root, tmp_path, workers):
    """7 batches an epoch. Resumed at the end of an epoch and in its middle, where Lightning makes the iterator before
    it calls set_epoch: workers that fetch at once would fetch the first batches of epoch 0."""
    straight = fit(root, tmp_path / "straight", 3, workers=0)
    assert [note[:2] for note in straight.notes] == [(epoch, batch) for epoch in range(3) for batch in range(7)]
    assert len({str(note[2]) for note in straight.notes}) == 21
    for step in (7, 10):
        fit(root, tmp_path / f"{step}", 3, workers=workers, stop=step)
        resumed = fit(root, tmp_path / "on", 3, workers=workers, resume=tmp_path / f"{step}" / f"step={step}.ckpt")
        assert resumed.notes == straight.notes[step:]
        assert torch.equal(resumed.weight, straight.weight)


def test_batch_that_ranks_cannot_share_is_refused(root, monkeypatch):
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_rank", lambda: 1)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 3)
    with pytest.raises(UserError, match=r"cannot be divided among 3: set data\.batch_size=6"):
        data(root).train_dataloader()
    whole = plan_rows(data(root, batch_size=6), monkeypatch, 1)
    assert [rows[2:4] for rows in whole] == plan_rows(data(root, batch_size=6), monkeypatch, 3)


def plan_rows(module: ImageData, monkeypatch, world: int) -> list[list[int]]:
    monkeypatch.setattr("torch.distributed.get_rank", lambda: world // 2)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: world)
    return [batch["row"].tolist() for batch in module.train_dataloader()]


# --- pairs ------------------------------------------------------------------------------------------------------------


def test_pairs_are_of_other_test_classes_and_one_pass_begins_ten(root):
    records = Tiny(root).read()
    one, ten = make_pairs(records), make_pairs(records, pairs_per_image=10)
    assert (len(one), len(ten)) == (12, 120)
    assert one.text == ten.text[:12]
    assert ten.pair_id.tolist() == list(range(120))
    assert np.bincount(ten.row, minlength=40).tolist() == [0] * 28 + [10] * 12
    assert set(ten.other_row) == set(range(28, 40))
    assert not (records.labels[ten.row] == records.labels[ten.other_row]).any()
    for row in range(28, 40):  # own captions take turns
        assert set(ten.caption[ten.row == row]) == set(range(len(records.captions[row])))
    assert all(records.captions[r][k] == t for r, k, t in zip(ten.other_row, ten.other_caption, ten.text, strict=True))
    assert make_pairs(records, seed=1).text != one.text
    assert (make_pairs(records, "train").row < 28).all()


def test_pair_file_round_trip_and_loader(root, tmp_path):
    module = data(root)
    pairs = make_pairs(module.records, pairs_per_image=2)
    write_csv(pairs, module.records, tmp_path / "pairs_tiny_test.csv")
    head, first = (tmp_path / "pairs_tiny_test.csv").read_text().splitlines()[:2]
    assert head == "pair_id,image,class,own_caption_idx,target_image,target_class,target_caption_idx,target_text"
    assert first.startswith("0,e/028,e,")
    again = read_csv(tmp_path / "pairs_tiny_test.csv", module.records)
    for name, values in vars(pairs).items():
        assert np.array_equal(values, getattr(again, name))
    batches = list(module.pair_loader(again, 10))
    assert torch.cat([batch["pair"] for batch in batches]).tolist() == list(range(24))
    assert torch.cat([batch["other_caption"] for batch in batches]).tolist() == pairs.other_caption.tolist()
    (centre,) = module.eval_loader(rows=pairs.row[:10], batch_size=10)
    assert torch.equal(centre["image"], batches[0]["image"])


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ('0,e/999,e,0,f/036,f,0,"caption 0, of 36"', r"line 2: there is no image 'e/999' among the 40 of tiny"),
        ('0,e/028,e,0,f/999,f,0,"caption 0, of 36"', r"there is no image 'f/999'"),
        ('0,e/028,d,0,f/036,f,0,"caption 0, of 36"', r"e/028 is of class 'e', not 'd'"),
        ('0,e/028,e,9,f/036,f,0,"caption 0, of 36"', r"e/028 has captions 0 to 8, not '9'"),
        ('0,e/028,e,-1,f/036,f,0,"caption 0, of 36"', r"has captions 0 to 8, not '-1'"),
        ('0,e/028,e,0,e/029,e,0,"caption 0, of 29"', r"both of class 'e'"),
        ('0,e/028,e,0,f/036,f,0,"caption 1, of 36"', r"caption 0 of f/036 reads 'caption 0, of 36' here"),
        ('x,e/028,e,0,f/036,f,0,"caption 0, of 36"', r"pair_id must be a whole number, not 'x'"),
        (
            '7,e/029,e,0,f/036,f,0,"CAPTION 0 of 36."\n7,e/028,e,0,f/036,f,0,"caption 0, of 36"',
            r"line 3: pair_id 7 was",
        ),
        ("0,e/028,e,0,f/036,f,0,caption 0, of 36", r"line 2: 8 columns"),
        ("0,e/028,e", r"line 2: 8 columns"),
        ("", r"holds no pair"),
    ],
)
def test_wrong_pair_file_is_a_sentence(root, tmp_path, line, sentence):
    path = tmp_path / "pairs.csv"
    head = "pair_id,image,class,own_caption_idx,target_image,target_class,target_caption_idx,target_text"
    path.write_text(f"{head}\n{line}\n")
    with pytest.raises(UserError, match=sentence):
        read_csv(path, Tiny(root).read())


def test_absent_or_foreign_pair_file_is_a_sentence(root, tmp_path):
    with pytest.raises(UserError, match=r"there is no file of pairs"):
        read_csv(tmp_path / "none.csv", Tiny(root).read())
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match=r"not a file of pairs"):
        read_csv(tmp_path / "other.csv", Tiny(root).read())


@pytest.mark.parametrize(("wanted", "world", "found"), [(64, 1, 10), (64, 4, 8), (4, 1, 4)])
def test_a_needed_networks_batch_is_cut_to_the_images_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: int, world: int, found: int
) -> None:
    make_folder(tmp_path / "own", {str(i): (f"bird {i}",) for i in range(12)})
    settings = {"image_size": 8, "batch_size": wanted, "reads": ("caption",)}
    data = ImageData(dataset=Folder(root=tmp_path / "own"), shrink=True, **settings)  # type: ignore[arg-type]
    monkeypatch.setattr(data, "_rank", lambda: (0, world))
    loader = data.train_dataloader()
    assert [len(batch["row"]) for batch in loader] == [found // world] * (10 // found)
    if wanted > 10:
        with pytest.raises(UserError, match=r"data\.batch_size=64: set data\.batch_size=10 or less"):
            ImageData(dataset=Folder(root=tmp_path / "own"), **settings).train_dataloader()  # type: ignore[arg-type]
