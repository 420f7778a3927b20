"""FineGAN's one-off jobs: `task=prepare prepare=attributes` and `matrix` (features, denoised labels, a report, sheets),
and Table 1's `split`.

N images, F feature width, A attributes, S side of what the feature network sees.
"""

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from common.classifier import ImageClassifier
from common.config import as_list
from common.data.module import ImageData
from common.data.records import Records
from common.errors import UserError, choose
from common.files import read_cached, write_whole
from common.metrics.functions import from_uint8
from common.pictures import Sheet, save
from common.tasks.job import Job
from common.tasks.runs import append_result, result_line
from finegan.checkpoints import load_features, told_of
from finegan.denoise import Denoised, Settings, fit
from finegan.encoders import Colours

log = logging.getLogger(__name__)

Config = dict[str, Any]
PUBLISHED = "about 40 %"  # wrong attribute labels by the paper's survey of a few attributes, Sec. 3.1
ACROSS = 10  # images in a row of a contact sheet
TILE = 128
UNSEEN = 0.6  # rho from which an attribute is rather not seen than mostly wrong
THRESHOLD = """What this adds to an SVM of all labels is the threshold: on synthetic noise its ranking is little better
where wrong labels fall at random, and no better where they fall on look-alikes (`make bench`)."""


def denoise_attributes(job: Job) -> None:
    """Denoises a data set's attributes: job.path (.npz), beside it the report (.md) and the sheets of Fig. 4 and 9."""
    cfg, path, asked, data = job.cfg, job.path, job.settings, job.data
    records = data.records
    if records.attributes is None or records.certainty is None:
        raise UserError(f"{records.name} in {records.root} has no attributes to denoise: choose data=cub.")
    shown = check_shown(as_list(asked["shown"]), records)
    encoder = load_features(asked["features"])
    features = image_features(data, encoder, path.parent)

    readable = data.store.ok
    features[~readable] = features[readable & ~records.test].mean(0)  # no image, no opinion; never in a fit
    denoised = run_fit(
        cfg,
        features,
        records.attributes,
        train=~records.test & readable,
        not_visible=records.certainty == 1 if asked["ignore_not_visible"] else None,
        names=records.attribute_names,
        keys=records.keys,
    )
    denoised = replace(denoised, params=denoised.params | {"features": told_of(encoder)})
    denoised.write(path)
    truth, labels = read_truth(records), records.attributes != 0
    told = summary(denoised, labels, ~records.test, truth)
    warning = (
        "PROCEDURAL data with synthetic label noise, not comparable with the paper. " if records.procedural else ""
    )
    tables = [by_certainty(denoised.removed, labels, records.certainty), by_group(denoised, labels, truth)]
    write_report(path, denoised, f"{warning}Features: {told_of(encoder)}", told, tables)
    pictures = contact_sheets(data, denoised, shown, truth, cfg["seed"], path)
    print("\n".join([*told, f"labels    {path}", *(f"picture   {picture}" for picture in pictures)]))


def check_shown(names: Sequence[str], records: Records) -> Sequence[str]:
    """The attributes of the sheets, found wanting before the long work."""
    return [choose("prepare.shown", name, records.attribute_names) for name in names]


def denoise_matrix(job: Job) -> None:
    """Denoises any binary labels by any features, given as .npy: job.path (.npz) and beside it the report (.md)."""
    cfg, path, asked = job.cfg, job.path, job.settings
    features, labels = (read_matrix(asked, name) for name in ("features", "labels"))
    train = read_matrix(asked, "train").astype(bool) if asked["train"] else np.ones(len(labels), bool)
    denoised = run_fit(cfg, features, labels, train=train)
    denoised.write(path)
    told = summary(denoised, labels != 0, train, None)
    write_report(path, denoised, f"Features: {asked['features']}, labels: {asked['labels']}", told, [])
    print("\n".join([*told, f"labels    {path}"]))


def read_matrix(job: Config, name: str) -> np.ndarray:
    """The array of a .npy file that conf/prepare/matrix.yaml asks for."""
    if job[name] is None:
        raise UserError(f"prepare=matrix needs a file of {name}: give prepare.{name}=FILE.npy.")
    try:
        return np.load(job[name], allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"prepare.{name}={job[name]} cannot be read as .npy ({error}): correct the path.") from None


def run_fit(cfg: Config, features: np.ndarray, labels: np.ndarray, **more: Any) -> Denoised:
    """`denoise.fit` by the settings of conf/prepare, as many processes as data.workers says (0 = one for each core)."""
    job = cfg["prepare"]
    with progress("denoising attributes", labels.shape[1]) as step:
        return fit(
            features,
            labels,
            Settings(**{field.name: job[field.name] for field in fields(Settings)}),
            jobs=cfg["data"]["workers"] or -1,
            progress=step,
            **more,
        )


@contextmanager
def progress(what: str, total: int) -> Iterator[Any]:
    """A bar on a terminal, else a line in the log. Gives what to call after each piece, with a count or none."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    log.info("%s: %d", what, total)
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(what, total=total)
        yield lambda count=1: bar.advance(task, count)


# ---- features


def image_features(data: ImageData, encoder: ImageClassifier | Colours, folder: Path) -> np.ndarray:
    """N,F float32 of the whole crops squashed to S,S (Sec. 4.4), NaN where an image cannot be read. Kept in `folder`
    under the names of store and weights."""
    path = folder / f"features-{data.store.folder.name}-{data.image_size}-{encoder.hash}.npy"
    return read_cached(path, lambda part: np.save(part, compute(data, encoder)), np.load)


@torch.no_grad()
def compute(data: ImageData, encoder: ImageClassifier | Colours) -> np.ndarray:
    """N,F float32, on the GPU where there is one."""
    found = np.full((len(data.records), encoder.width), np.nan, np.float32)
    rows = np.flatnonzero(data.store.ok)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    encoder = encoder.to(device)
    with progress("features of images", len(rows)) as step:
        for start in range(0, len(rows), data.batch_size):
            batch = rows[start : start + data.batch_size]
            images = torch.stack([squashed(data, row) for row in batch.tolist()])
            found[batch] = encoder.features(images.to(device))[0].cpu().numpy()
            step(len(batch))
    return found


def squashed(data: ImageData, row: int) -> Tensor:
    """The stored image whole, its aspect not kept: 3,S,S in [-1, 1]."""
    side = (data.image_size, data.image_size)
    return to_tensor(Image.fromarray(data.store.image(row)).resize(side, Image.Resampling.BILINEAR))


def to_tensor(image: Image.Image) -> Tensor:
    """3,H,W in [-1, 1]."""
    return from_uint8(torch.from_numpy(np.array(image)).permute(2, 0, 1))


# ---- report


def read_truth(records: Records) -> np.ndarray | None:
    """N,A bool: what a procedural bird has; None for real ones."""
    for folder in (records.root, records.root.parent):
        path = folder / "truth" / "attributes.npz"
        if records.procedural and path.is_file():
            with np.load(path, allow_pickle=False) as file:
                true = file["true"]
            return true if true.shape == (len(records), len(records.attribute_names)) else None
    return None


def summary(denoised: Denoised, labels: np.ndarray, train: np.ndarray, truth: np.ndarray | None) -> list[str]:
    """The few sentences that matter. labels: N,A bool as given. train: N bool. truth: N,A bool where it is known."""
    removed, skipped = denoised.removed, denoised.skipped
    lines = [
        f"Removed: {share(removed[train], labels[train])} of the positive labels of {train.sum():,} train images, "
        f"{share(removed[~train], labels[~train])} of {(~train).sum():,} others, which no fit saw. The paper says that "
        f"{PUBLISHED} are wrong, by a look at a few attributes.",
        f"Left as they are: {skipped.sum()} of {len(skipped)} attributes, with too few positives or negatives or too "
        "many positives.",
        f"Hardly seen: {(denoised.rho >= UNSEEN).sum()} attributes with rho >= {UNSEEN}. What the features do not show "
        "looks like noise, so rho is rather an upper bound.",
    ]
    if truth is not None:
        kept = denoised.present != 0
        parts = [(kind, part) for kind, part in (("train", train), ("others", ~train)) if part.any()]
        rows = [f"{kind}: {right(labels[part], kept[part], truth[part])}" for kind, part in parts]
        lines.append(f"Known truth, before -> after; {'; '.join(rows)}.")
    return lines


def write_report(path: Path, denoised: Denoised, head: str, told: list[str], tables: list[list[str]]) -> None:
    """<stem>.md beside path."""
    settings = ", ".join(f"{name} {value}" for name, value in denoised.params.items())
    lines = [
        "# Denoised attributes",
        "",
        f"{head}; feature matrix {denoised.feature_hash}.",
        "",
        f"Settings: {settings}.",
    ]
    for line in [*told, THRESHOLD, *("\n".join(table) for table in tables)]:
        lines += ["", line]
    write_whole(path.with_suffix(".md"), "\n".join(lines) + "\n")


def share(part: np.ndarray, whole: np.ndarray) -> str:
    """A part of a whole in percent, "none" of nothing."""
    return f"{100 * part.sum() / whole.sum():.1f} %" if whole.any() else "none"


def right(labels: np.ndarray, kept: np.ndarray, truth: np.ndarray) -> str:
    """Precision and recall of the positives, before and after."""

    def pair(chosen: np.ndarray) -> tuple[float, float]:
        hits = (chosen & truth).sum()
        return hits / max(1, chosen.sum()), hits / max(1, truth.sum())

    (p, r), (p2, r2) = pair(labels), pair(kept)
    return f"precision {p:.3f} -> {p2:.3f}, recall {r:.3f} -> {r2:.3f}"


def by_certainty(removed: np.ndarray, labels: np.ndarray, certainty: np.ndarray) -> list[str]:
    """How sure the annotators were of what is removed. certainty: N,A in 1..4."""
    lines = ["| certainty | labels | positive | removed of the positive |", "|---|---:|---:|---:|"]
    for value, name in enumerate(("not visible", "guessing", "probably", "definitely"), 1):
        at = certainty == value
        cells = (name, f"{at.sum():,}", share(labels & at, at), share(removed & at, labels & at))
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def by_group(denoised: Denoised, labels: np.ndarray, truth: np.ndarray | None) -> list[str]:
    """A line for each group of attributes ("has_wing_color::red" is of "wing_color")."""
    heads = ["group", "attributes", "denoised", "labelled", "removed", "mean rho"]
    heads += ["known truth"] if truth is not None else []
    lines = [f"| {' | '.join(heads)} |", f"|---|{'---:|' * (len(heads) - 1)}"]
    group = np.array([name.partition("::")[0].removeprefix("has_") for name in denoised.names])
    for name in dict.fromkeys(group.tolist()):
        own = group == name
        tried, mine = own & ~denoised.skipped, labels[:, own]
        cells = [name, f"{own.sum()}", f"{tried.sum()}", f"{mine.sum():,}", share(denoised.removed[:, own], mine)]
        cells += [f"{denoised.rho[tried].mean():.2f}" if tried.any() else ""]
        cells += [right(mine, denoised.present[:, own] != 0, truth[:, own])] if truth is not None else []
        lines.append(f"| {' | '.join(cells)} |")
    return lines


# ---- Fig. 4 and 9


def contact_sheets(
    data: ImageData, denoised: Denoised, shown: Sequence[str], truth: np.ndarray | None, seed: int, path: Path
) -> list[Path]:
    """Fig. 4: random images of a raw attribute, a row each. Fig. 9: the same, with a cross over those removed."""
    labels = data.records.attributes
    assert labels is not None
    tiles: list[list[tuple[int, int]]] = []
    for name in shown:
        a = denoised.names.index(name)
        rows = np.flatnonzero((labels[:, a] != 0) & data.store.ok)
        rng = np.random.default_rng([seed, a])
        tiles.append([(row, a) for row in rng.permutation(rows)[:ACROSS].tolist()])
    blank = torch.ones(3, TILE, TILE)

    def rendered(crossed: bool) -> dict[str, list[Tensor]]:
        return {
            str(k + 1): [tile(data, *row[k], crossed, denoised) if k < len(row) else blank for row in tiles]
            for k in range(ACROSS)
        }

    def said(row: int, a: int) -> str:
        words = ["removed" if denoised.removed[row, a] else "kept"]
        words += [] if truth is None else ["right label" if truth[row, a] else "wrong label"]
        return ", ".join(words)

    below = [[said(*at) for at in row] + [""] * (ACROSS - len(row)) for row in tiles]
    above = [f"{name}: rho {denoised.rho[denoised.names.index(name)]:.2f}" for name in shown]
    facts: Config = {"attributes": list(shown), "seed": seed, "labels": path.name}
    facts["images"] = [[data.records.keys[row] for row, _ in each] for each in tiles]
    return [
        save(Sheet(rendered(False), list(shown)).render(), path.with_name(f"{path.stem}_fig4.png"), facts),
        save(
            Sheet(rendered(True), above, below=below).render(),
            path.with_name(f"{path.stem}_fig9.png"),
            facts | {"removed": [[bool(denoised.removed[at]) for at in each] for each in tiles]},
        ),
    ]


def tile(data: ImageData, row: int, a: int, crossed: bool, denoised: Denoised) -> Tensor:
    """The middle of a stored image, 3,TILE,TILE in [-1, 1], with a red cross where asked and removed."""
    whole = Image.fromarray(data.store.image(row))
    side, (width, height) = min(whole.size), whole.size
    left, top = (width - side) // 2, (height - side) // 2
    image = whole.crop((left, top, left + side, top + side)).resize((TILE, TILE), Image.Resampling.BILINEAR)
    if crossed and denoised.removed[row, a]:
        pen = ImageDraw.Draw(image)
        for line in ((8, 8, TILE - 8, TILE - 8), (8, TILE - 8, TILE - 8, 8)):
            pen.line(line, fill=(220, 0, 0), width=5)
    return to_tensor(image)


# ---- Table 1


def count_split(job: Job) -> None:
    """Classes and images of both splits beside the published numbers: a line of results.jsonl, and a CSV."""
    cfg, records = job.cfg, job.records
    numbers: dict[str, int] = {}
    for split in ("train", "test"):
        rows = records.rows(split)
        numbers |= {f"{split}_classes": len(np.unique(records.labels[rows])), f"{split}_images": len(rows)}
    published = cfg.get("published") or {}
    lines = [f"{name},{value},{published.get(name, '')}" for name, value in numbers.items()]
    write_whole(job.path, "\n".join(["count,here,published", *lines, ""]))
    print("\n".join(f"  {name:32} {value}" for name, value in numbers.items()))
    row, found = cfg["chosen"].get("table") or "finegan_t1_split", f"{len(records)} of {records.expected}"
    line = result_line(cfg, row, job.path, numbers, {"split": "by class"}, images_found=found)
    append_result(Path(cfg["paths"]["runs"]), line)
