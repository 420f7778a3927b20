"""What FineGAN draws: a user's own attributes and mask (task=sample), the paper's figures (task=figure)."""

from collections.abc import Callable
from itertools import product
from pathlib import Path

from common.data.module import ImageData
from common.errors import UserError
from common.files import short_hash
from common.pictures import Config, destination, listed, number, one_of, to_picture, write
from finegan import drawings
from finegan.drawings import Sheet, images_of, told, values, with_masks
from finegan.model import FineGAN
from finegan.scenes import scene

NAMES = "grid attention diversity inputs attributes triplets swap mask_swap mask_interp interp stages".split()
FIGURES: dict[str, Callable[[Config, FineGAN, ImageData], Sheet]] = {name: getattr(drawings, name) for name in NAMES}


def figure(cfg: Config, model: FineGAN, data: ImageData, folder: Path) -> Path:
    """The figure that cfg["figure"] names, of the user's images and texts or of test images."""
    name = one_of(cfg, "figure", tuple(FIGURES))
    path = destination(cfg, folder, f"{name}.png")
    sheet = FIGURES[name](cfg, model, data)
    facts = {"figure": name, "n": cfg["n"], "steps": cfg["steps"], "rows": sheet.above} | sheet.facts
    return write(cfg, folder, path, sheet.columns, sheet.above, facts, sheet.below)


def sample(cfg: Config, model: FineGAN, data: ImageData, folder: Path) -> Path:
    """n drawings of each condition in each mask: a sheet, and beside it each drawing as a PNG.

    `text`: names of attributes (with commas between, or a list), or one sentence or more; null = those of the test
    image. `image`: test images, whose masks are used, or mask PNGs; null = a mask drawn with the seed.
    """
    asked, texts, count = listed(cfg["image"]), listed(cfg["text"]), number(cfg, "n", 1)
    if not asked and not texts:
        raise UserError("task=sample draws what you name: give text='wing color: red, belly color: white', say.")
    if asked and texts and not model.masked:
        raise UserError(f"this model takes no mask and image={asked[0]} would change nothing: leave it out.")
    texts = texts if model.inputs == "text" or not texts else [", ".join(texts)]
    name = f"{Path((asked or ['drawn'])[0]).stem}-{short_hash([asked, texts, count, cfg['seed']])}.png"
    path = destination(cfg, folder, name)
    if asked and texts:
        asked, texts = (list(column) for column in zip(*product(asked, texts), strict=True))
    s = scene(cfg | {"images": asked, "texts": texts}, model, data, 1)
    columns = images_of(model, model.encode(s.conditions), values(s.masks), count, cfg["seed"])
    rows = []
    for row, condition in enumerate(s.conditions):
        files = [path.with_name(f"{path.stem}-{row + 1}-{k}.png") for k in range(1, count + 1)]
        for column, file in zip(columns.values(), files, strict=True):
            to_picture(column[row]).save(file)
        mask = s.masks.names[row] if s.masks else None
        rows.append({"mask": mask, "condition": condition, "drawings": [file.name for file in files]})
    return write(cfg, folder, path, with_masks(columns, s.masks), told(s), {"rows": rows})
