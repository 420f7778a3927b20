"""Result images as other papers publish them: strips of panels side by side, or folders of equal names.

Always in the order of the names: a file system's own order differs between machines, and PG2's scorer pairs images by
it. H, W sides of an image.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from common.data.geometry import to_grey, to_rgb
from common.data.readers.fashion_names import parse, view
from common.data.records import FRAME
from common.errors import UserError, choose
from common.files import UNREADABLE, open_image

ENDINGS = (".png", ".jpg")
PHOTO = re.compile(r"(?:fasion|fashion)(?:WOMEN|MEN).+?id_?\d{8}_?\d{2}_\d_?[a-z]+")  # a flat name inside another
SMALLEST = 11  # pixels: the window of SSIM


class Strip(NamedTuple):
    """A layout of panels side by side, FRAME pixels high."""

    form: str  # of the names
    pattern: str
    width: int  # of a panel
    number: int  # of panels
    panels: dict[str, int]


class Result(NamedTuple):
    """Where one generated image lies, with what belongs to it."""

    name: str
    files: dict[str, Path]  # of generated and target; of source and mask where there are
    strip: Strip | None  # what one file of all is cut by

    @property
    def way(self) -> str:
        """front_to_back and the like where the name holds those of two DeepFashion photos, else ""."""
        keys = [parse(f"{photo}.jpg") for photo in PHOTO.findall(self.name)]
        return "_to_".join(view(key) for key in keys if key) if len(keys) == 2 and all(keys) else ""


STRIPS = {
    # Deformable GAN, test.py: x, y, generated
    "dsc": Strip("<from>_<to>.png", r".+_.+", 256, 3, {"source": 0, "target": 1, "generated": 2}),
    # PATN, and what is built on it: x, its pose, y, its pose, generated; the middle 176 columns of each photo
    "patn": Strip("<from>___<to>_vis.png", r".+___.+_vis", 176, 5, {"source": 0, "target": 2, "generated": 4}),
}
# PG2, test_result/: folders of %05d.png. `mask` there is the body in x, and the one that its own score_mask.py takes
PG2 = {"generated": "G", "target": "x_target", "source": "x", "mask": "mask_target"}
LAYOUTS = ("pg2", *STRIPS, "pairs")


def listed(
    layout: str, folder: Path | None, generated: Path | None = None, targets: Path | None = None
) -> list[Result]:
    """All results in a layout, sorted by name. UserError for what is absent or misnamed.

    pg2, dsc, patn: of `folder`. pairs: of two folders with equal names, but for their endings.
    """
    choose("prepare.layout", layout, LAYOUTS)
    if layout == "pairs":
        places = {"generated": given(generated, "generated"), "target": given(targets, "targets")}
        return together({role: images_in(place) for role, place in places.items()})
    folder = given(folder, "folder")
    if layout in STRIPS:
        strip, found = STRIPS[layout], images_in(folder)
        refuse_names(found, strip.pattern, strip.form)
        return [Result(path.name, {"generated": path}, strip) for path in found.values()]
    top = folder / "test_result" if (folder / "test_result").is_dir() else folder
    kinds = {role: top / name for role, name in PG2.items() if role in ("generated", "target") or (top / name).is_dir()}
    found_in = {role: images_in(place) for role, place in kinds.items()}
    refuse_names(found_in["generated"], r"\d{5,}", "00000.png")
    return together(found_in)


def given(folder: Path | None, key: str) -> Path:
    """A folder that a layout needs. UserError where the command has none."""
    if folder is None:
        raise UserError(f"prepare.{key} has no value: give the folder of the images with prepare.{key}=DIR.")
    return folder


def images_in(folder: Path) -> dict[str, Path]:
    """The images right in a folder, by name without ending, sorted."""
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}: give the one that the images are in.")
    found: dict[str, Path] = {}
    for path in sorted(path for path in folder.iterdir() if path.suffix.lower() in ENDINGS):
        if path.stem in found:
            raise UserError(f"{found[path.stem]} and {path.name} are of one name: keep one of them.")
        found[path.stem] = path
    if not found:
        raise UserError(f"{folder} holds no {' or '.join(ENDINGS)}: give the folder that the images are in.")
    return found


def refuse_names(found: dict[str, Path], pattern: str, form: str) -> None:
    """UserError for an image that is not named as its layout has it. form: an example."""
    for stem, path in found.items():
        if not re.fullmatch(pattern, stem):
            raise UserError(f"{path} is not named like {form}: choose another prepare.layout, or put it elsewhere.")


def together(found: dict[str, dict[str, Path]]) -> list[Result]:
    """The images of equal names in several folders, those of `generated` in their order."""
    results = []
    for stem, path in found["generated"].items():
        for role, others in found.items():
            if stem not in others:
                place = next(iter(others.values())).parent
                raise UserError(f"{path} has no {role} of that name in {place}: put it there, or take the image away.")
        results.append(Result(path.name, {role: others[stem] for role, others in found.items()}, None))
    return results


def batches(results: Sequence[Result], size: int) -> Iterator[dict[str, Tensor]]:
    """generated, target and, where there is one, source B,3,H,W uint8, mask B,1,H,W uint8 in {0, 1}; `size` at a time.

    All are of one size. UserError for a file that cannot be read or is of another size.
    """
    first: tuple[int, ...] | None = None
    for start in range(0, len(results), size):
        rows = []
        for result in results[start : start + size]:
            images = loaded(result)
            for role, image in images.items():
                height, width = first = first or image.shape[1:]
                if image.shape[1:] != first or min(first) < SMALLEST:
                    wrong = f"{result.files.get(role, result.files['generated'])} is {image.shape[2]}x{image.shape[1]}"
                    wanted = f"{width}x{height}, as the first" if min(first) >= SMALLEST else f"{SMALLEST} px at least"
                    raise UserError(f"{wrong}, not {wanted}: SSIM is of images of one size, and never of resized ones.")
            rows.append(images)
        yield {role: torch.stack([row[role] for row in rows]) for role in rows[0]}


def loaded(result: Result) -> dict[str, Tensor]:
    """The images of one result, uint8: 3,H,W each; mask 1,H,W in {0, 1}."""
    pixels = {role: decoded(path, to_grey if role == "mask" else to_rgb) for role, path in result.files.items()}
    if strip := result.strip:
        whole, path = pixels["generated"], result.files["generated"]
        wanted = (FRAME, strip.number * strip.width)
        if whole.shape[:2] != wanted:
            raise UserError(
                f"{path} is {whole.shape[1]}x{whole.shape[0]}, not {wanted[1]}x{wanted[0]} ({strip.number} panels of "
                f"{strip.width}x{FRAME}): choose another prepare.layout."
            )
        panels = np.split(whole, strip.number, 1)
        pixels = {role: panels[place] for role, place in strip.panels.items()}
    if "mask" in pixels:
        pixels["mask"] = (pixels["mask"] > 0)[..., None].astype(np.uint8)
    return {role: torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))) for role, image in pixels.items()}


def decoded(path: Path, convert: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    """H,W,3 or H,W uint8."""
    try:
        with open_image(path) as file:
            return np.array(convert(file))
    except UNREADABLE as error:
        raise UserError(f"The image {path} cannot be read ({error}): put a whole copy there.") from error
