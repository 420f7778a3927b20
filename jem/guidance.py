"""The one-off jobs `task=prepare prepare=views` and `prepare=guidance`, the file of guides and its reader.

N images of the records, S side of a view. A code is the extractor's answer, F or C,S',S'. Guides are not normalised in
the file: `guide.center` takes the mean away first.
"""

import json
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from common.data.geometry import square_about, to_rgb, upright
from common.data.module import ImageData
from common.data.records import Records
from common.errors import UserError, choose
from common.files import UNREADABLE, open_image, whole, write_whole
from common.progress import bar
from common.tasks.job import Job
from common.weights import check_export, check_parts, find_weights, read_weights
from jem.extractor import GuideExtractor, guide_extractor, read_views
from jem.segmenter import Segmenter, load_segmenter, segmenter_file
from jem.views import INSTANCED, VIEWS, by_area, components, overlap, render

log = logging.getLogger(__name__)

Config = dict[str, Any]
Find = Callable[[Sequence[int]], list[np.ndarray | str]]  # rows -> an instance map of each, or why there is none
SOURCES = ("official", "maskrcnn", "maskrcnn_ft", "path")
NOTHING, BAD = "nothing found", "bad mask"  # reasons
FORMAT = 1


# ---- prepare=views


def make_views(job: Job) -> None:
    """job.path (.npy, N,S,S,3 uint8, zeros where a photo cannot be read), and beside it how they were made (.json).

    A photo whose source fails takes the data set's own mask; how many did is counted, told and kept.
    """
    asked, data = job.settings, job.data
    view, source = choose("prepare.view", asked["view"], VIEWS), choose("prepare.source", asked["source"], SOURCES)
    if view == "foreground_pred" and source == "official":
        raise UserError(
            "prepare.view=foreground_pred shows what a network found: give prepare.source=maskrcnn, or take "
            "prepare.view=foreground."
        )
    if view != "raw" and "mask" not in data.reads:
        raise UserError(
            f"data.reads=[{', '.join(data.reads)}] leaves the masks out, which prepare.view={view} shows: add mask."
        )
    segmenter = None
    if source.startswith("maskrcnn") and view in INSTANCED:
        path = segmenter_file(asked["segmenter"])  # refused before anything is read
        segmenter = load_segmenter(path, asked["least_score"], asked["most_instances"]).to(device_of(job.cfg))
    source_here = source if view in INSTANCED else "official"  # foreground and raw look for no instances
    find = finder(data, source_here, segmenter, asked["instances"])
    rows, side, reasons = np.flatnonzero(data.store.ok), data.image_size, Counter[str]()
    if view != "raw" and source_here == "official":
        reasons[BAD] = count_bad_masks(data, rows, asked["max_bad_masks"])
    likeness: list[float] = []
    with whole(job.path) as part, bar(transient=True, disable=None) as progress:
        views = np.lib.format.open_memmap(part, "w+", np.uint8, (len(data.records), side, side, 3))
        step = progress.add_task("views", total=len(rows), numbers="photos")
        for start in range(0, len(rows), data.batch_size):
            batch = rows[start : start + data.batch_size].tolist()
            for row, instances in zip(batch, find(batch), strict=True):
                mask = own_mask(data, row)
                if isinstance(instances, str):
                    reasons[instances] += 1
                    instances = components(mask)
                elif source_here != "official":
                    likeness.append(overlap(instances, mask))
                views[row] = render(view, data.store.window(row, 0, 0, side), instances, mask)
            progress.advance(step, len(batch))
        views.flush()
    fallbacks = {reason: count for reason, count in reasons.items() if count}
    told: Config = {"view": view, "source": source, "side": side, "photos": len(rows), "fallbacks": fallbacks}
    told |= {"iou": float(np.mean(likeness)) if likeness else None}
    told |= {"segmenter_hash": segmenter.hash if segmenter else None}
    told |= {"segmenter_file": str(segmenter.path) if segmenter else None}
    told |= {name: asked[name] for name in ("least_score", "most_instances")}
    write_whole(job.path.with_suffix(".json"), json.dumps(told, indent=1))
    tell_fallbacks(fallbacks, len(rows))


def tell_fallbacks(fallbacks: Mapping[str, int], photos: int) -> None:
    """One line, where there is anything to say."""
    if fallbacks:
        counts = ", ".join(f"{count} {reason}" for reason, count in fallbacks.items())
        instead = "count as a whole" if BAD in fallbacks else "take the data set's mask"
        log.warning("%d of %d photos %s: %s", sum(fallbacks.values()), photos, instead, counts)


def count_bad_masks(data: ImageData, rows: np.ndarray, most: float) -> int:
    """How many masks show no object, or nothing else (Sec. 4.3: all ones). UserError where there are more than `most`
    of them, a share."""
    whole_or_none = [bool(own_mask(data, row).all()) for row in rows.tolist()]
    bad = rows[np.array(whole_or_none, bool)]
    if len(bad) > most * len(rows):
        raise UserError(
            f"{data.records.masks[bad[0]]} shows no object, or no background, as {len(bad)} of {len(rows)} masks do: "
            "take whole copies, or let them count as the whole photo with prepare.max_bad_masks=1."
        )
    return len(bad)


def device_of(cfg: Config) -> str:
    return "cuda" if torch.cuda.is_available() and cfg["trainer"]["accelerator"] != "cpu" else "cpu"


def finder(data: ImageData, source: str, segmenter: Segmenter | None, folder: str | None) -> Find:
    """What finds the instances of some rows, at the views' side."""
    if segmenter is not None:
        return lambda rows: [squashed(found, data) for found in segmenter([full_photo(data, row) for row in rows])]
    if source == "path":
        place = instance_folder(folder)
        return lambda rows: [read_instances(place / f"{data.records.keys[row]}.png", data) for row in rows]
    return lambda rows: [components(own_mask(data, row)) for row in rows]


def own_mask(data: ImageData, row: int) -> np.ndarray:
    """The data set's mask at the views' side, S,S in {0, 1}; all ones where it shows nothing or none is read."""
    side = data.image_size
    mask = data.store.mask_window(row, 0, 0, side) if "mask" in data.reads else None
    return np.ones((side, side), np.uint8) if mask is None or not mask.any() else mask


def squashed(instances: np.ndarray, data: ImageData) -> np.ndarray | str:
    """An instance map at the views' side; why there is none where it is empty."""
    small = Image.fromarray(instances).resize((data.image_size, data.image_size), Image.Resampling.NEAREST)
    return by_area(np.asarray(small)) if instances.any() else NOTHING


def full_photo(data: ImageData, row: int) -> np.ndarray:
    """The photo, H,W,3 uint8, of which the store has the small one."""
    records = data.records
    with open_image(records.images[row]) as file:
        photo = upright(file, data.background) if records.boxes is None else to_rgb(file, data.background)
    if data.bbox_crop and records.boxes is not None:
        photo = photo.crop(square_about(records.boxes[row], *photo.size))
    return np.asarray(photo)


def instance_folder(folder: str | None) -> Path:
    if folder is None:
        raise UserError("prepare.source=path needs a folder of instance maps: give prepare.instances=FOLDER.")
    place = Path(folder).expanduser()
    if not place.is_dir():
        raise UserError(f"prepare.instances={folder} is no folder: correct the path.")
    return place


def read_instances(path: Path, data: ImageData) -> np.ndarray | str:
    """A user's instance map at the views' side: 0 = background, k = instance k, in any order."""
    if not path.is_file():
        return "no file"
    try:
        with open_image(path) as file:
            return squashed(numbered(np.asarray(file), path), data)
    except UNREADABLE:
        return "unreadable file"


def numbered(pixels: np.ndarray, path: Path) -> np.ndarray:
    """H,W of whole numbers as an instance map. UserError for colours."""
    if pixels.ndim != 2:
        raise UserError(f"{path} is in colour: save it in one channel, 0 = background and k = instance k.")
    return by_area(pixels.astype(np.int64))


# ---- prepare=guidance


def extract(job: Job) -> None:
    """job.path (.pt), as `Guidance` reads it: codes of the views and of their mirror images."""
    asked, data = job.settings, job.data
    extractor = guide_extractor(asked["weights"], asked["extractor"], asked["layer"], asked["seed"])
    extractor = extractor.to(device := device_of(job.cfg))
    views, told = read_views(asked["views"], len(data.records)), views_told(asked["views"], asked)
    rows, train = np.flatnonzero(data.store.ok), ~data.records.test
    features = torch.zeros(len(views), 2, *extractor.shape, dtype=torch.float16)
    total = torch.zeros(extractor.shape, dtype=torch.float64)
    with bar(transient=True, disable=None) as progress:
        step = progress.add_task("guides", total=len(rows), numbers="photos")
        for start in range(0, len(rows), data.batch_size):
            batch = rows[start : start + data.batch_size]
            codes = both_ways(extractor, torch.from_numpy(views[batch]).to(device)).cpu()
            features[batch] = codes.half()
            total += codes[train[batch], 0].double().sum(0)
            progress.advance(step, len(batch))
    if not torch.isfinite(features).all():
        raise UserError(f"{asked['weights']} gives codes beyond float16's 65504: give other weights of the extractor.")
    settings = {name: asked[name] for name in ("extractor", "layer", "view", "source", "seed")}
    settings |= {"side": views.shape[1], "extractor_hash": extractor.hash, "extractor_file": asked["weights"]}
    settings |= {"extractor_info": extractor.info, "views_file": asked["views"]}
    settings |= {name: told[name] for name in ("segmenter_hash", "segmenter_file", "least_score", "most_instances")}
    content = {"format": FORMAT, "kind": "guidance", "features": features, "settings": settings}
    content |= {"valid": torch.from_numpy(data.store.ok.copy()), "keys": list(data.records.keys)}
    content |= {"mean": (total / max(1, (train & data.store.ok).sum())).float(), "fallbacks": told["fallbacks"]}
    with whole(job.path) as part:
        torch.save(content, part)
    log.info("guides of %s (%s)", extractor.info["provenance"], extractor.hash)


@torch.no_grad()
def both_ways(extractor: Callable[[Tensor], Tensor], views: Tensor) -> Tensor:
    """uint8 B,S,S,3 -> B,2,...: the codes of the views and of the mirrored views."""
    return torch.stack([extractor(views), extractor(views.flip(2))], 1)


def views_told(path: str, asked: Config) -> Config:
    """What the .json beside a file of views says. UserError where they are other views than asked for."""
    file = Path(path).with_suffix(".json")
    try:
        told: Config = json.loads(file.read_text())
        found = {name: told[name] for name in ("view", "source")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} does not say how {path} was made ({error!r}): make both with prepare=views.") from None
    for name, value in found.items():
        if value != asked[name]:
            raise UserError(f"{path} has views of {name} {value}, not {asked[name]}: give prepare.{name}={value}.")
    return told


# ---- the file


PARTS: Mapping[str, Any] = {
    "features": lambda value: isinstance(value, Tensor) and value.dtype == torch.float16 and value.ndim >= 3,
    "valid": lambda value: isinstance(value, Tensor) and value.dtype == torch.bool,
    "mean": Tensor,
    "keys": list,
    "settings": dict,
    "fallbacks": dict,
}


class Guidance(NamedTuple):
    """The guides of a data set's images, by row."""

    features: Tensor  # N,2,... float16, mapped into memory: codes of the view and of the mirrored view
    valid: Tensor  # N bool, False where the photo could not be read
    mean: Tensor  # ... float32, of the training photos' unmirrored codes
    settings: (
        Config  # extractor, layer, view, source, seed, side, {extractor,segmenter}_{hash,file}, extractor_info, ...
    )
    fallbacks: dict[str, int]  # reason -> photos


def read_guidance(path: str | Path, records: Records, **expected: Any) -> Guidance:
    """The file of prepare=guidance. UserError for another file, for guides of other photos, and where a setting is not
    as expected (extractor, layer, view, source, extractor_hash, ...)."""
    content = read_weights(path, mapped=True)
    check_export(content, "guidance", FORMAT, path, "give the file that prepare=guidance made")
    check_parts(content, PARTS, path)
    anew = "leave model.guidance out to have it made anew"
    settings, keys = content["settings"], content["keys"]
    if tuple(keys) != records.keys or len(content["features"]) != len(keys):
        raise UserError(
            f"{path} has guides of {len(keys)} other photos than the {len(records)} of {records.name}: {anew}."
        )
    for name, value in expected.items():
        if settings.get(name) != value:
            raise UserError(f"{path} has guides of {name} {settings.get(name)}, not {value}: {anew}.")
    return Guidance(*(content[name] for name in Guidance._fields))


# ---- a user's photo


def extractor_of(settings: Mapping[str, Any], file: str | Path | None = None) -> GuideExtractor:
    """The very extractor of some guides. file: where it is now, if elsewhere than then. UserError for another."""
    known = file or settings["extractor_file"]
    extractor = guide_extractor(known, settings["extractor"], settings["layer"], settings["seed"])
    if extractor.hash != settings["extractor_hash"]:
        raise UserError(
            f"{known} is not the extractor of these guides ({extractor.hash}, not {settings['extractor_hash']}): give "
            "the file that they were made with, or make them anew."
        )
    return extractor


def segmenter_of(settings: Mapping[str, Any], file: str | Path | None = None) -> Segmenter | None:
    """What finds the instances of a user's photo: the file given, that of the guides, or COCO's where it is on disk."""
    made_with = settings["segmenter_file"]
    there = made_with if made_with is not None and Path(made_with).is_file() else None
    path = find_weights("mask_rcnn", file or there)
    return None if path is None else load_segmenter(path, settings["least_score"], settings["most_instances"])


class GuidePhoto(NamedTuple):
    """A photo that is to guide, and its mask or instance map where one is given."""

    name: str
    photo: Image.Image
    instances: np.ndarray | None = None  # H,W, 0 = background

    @classmethod
    def read(cls, word: str) -> "GuidePhoto":
        """`photo.jpg`, or `photo.jpg::mask.png`. UserError for what is no picture."""
        name, _, mask = word.partition("::")
        photo = opened(Path(name), upright)
        if not mask:
            return cls(name, photo)
        found = opened(Path(mask), lambda file: Image.fromarray(numbered(np.asarray(file), Path(mask))))
        return cls(name, photo, np.asarray(found.resize(photo.size, Image.Resampling.NEAREST)))


def opened(path: Path, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    try:
        with open_image(path.expanduser()) as file:
            return convert(file)
    except UNREADABLE as error:
        raise UserError(f"{path} cannot be read as a picture ({error}): give a JPEG or PNG.") from None


def guides_of_photos(
    photos: Sequence[GuidePhoto], settings: Mapping[str, Any], extractor: GuideExtractor, segmenter: Segmenter | None
) -> tuple[Tensor, np.ndarray, list[str]]:
    """Codes B,..., views B,S,S,3 uint8, and a sentence for each photo whose instances nobody knows.

    settings: of `Guidance`. Such a photo guides as it is. UserError where the segmenter finds nothing in a photo.
    """
    side, view = settings["side"], settings["view"]
    views, notes = [], []
    for one in photos:
        instances = one.instances
        if instances is None and segmenter is not None and view != "raw":
            instances = segmenter([np.asarray(one.photo)])[0]
            if not instances.any():
                raise UserError(
                    f"{segmenter.path} finds nothing in {one.name}: name a mask beside it as {one.name}::MASK.png."
                )
        if instances is None and view != "raw":
            notes.append(f"{one.name} guides as it is: no segmenter and no mask ({one.name}::MASK.png) was given")
        small = np.asarray(one.photo.resize((side, side), Image.Resampling.BILINEAR))
        if instances is None:
            views.append(small)
            continue
        shown = by_area(np.asarray(Image.fromarray(instances).resize((side, side), Image.Resampling.NEAREST)))
        views.append(render(view, small, shown, shown))
    stacked = np.stack(views)
    with torch.no_grad():
        device = next(extractor.parameters()).device
        return extractor(torch.from_numpy(stacked).to(device)), stacked, notes
