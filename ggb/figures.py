"""Pictures of GGB, the U-Net and PG2: a user's photo in a user's pose (task=sample), the paper's figures (task=figure).

B pairs of a photo and a pose, S side. x source, c target pose, y target photo, x-hat the drawing. There is no noise:
the same command draws the same.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from common.data.module import ImageData
from common.data.poses import pose_maps
from common.errors import UserError
from common.files import short_hash
from common.pictures import Config, destination, listed, number, one_of, sheet, to_picture, write
from common.weights import read_weights
from ggb.model import GGB
from ggb.networks import downsized
from ggb.pg2 import PG2
from ggb.scenes import (
    Person,
    Pose,
    Scene,
    arranged,
    clip,
    frame_of,
    joints_of,
    people_of,
    person,
    photos,
    pose,
    scene,
    to_model,
    worn,
)
from ggb.serving import PoseGAN
from ggb.skeletons import between, onto, walk

KINDS: dict[str, type[PoseGAN]] = {"ggb": GGB, "pg2": PG2}  # of exported files
AT_ONCE = 32  # drawings in a batch
FRAME_MS = 120  # of a walk's GIF
FRAME_COLOUR = torch.tensor([1.0, -0.6, -0.6])  # round a photo drawn in its own pose


class Sheet(NamedTuple):
    """A figure before it is written."""

    columns: dict[str, list[Tensor]]  # heading -> R images
    above: list[str]  # R, or none
    facts: Config


# ---- drawing


def draw(model: PoseGAN, x: Tensor, joints: Tensor) -> Tensor:
    """x-hat of any number of pairs: B,3,S,S and B,18,2 in pixels -> B,3,S,S."""
    parts = zip(x.split(AT_ONCE), joints.split(AT_ONCE), strict=True)
    return torch.cat([model.draw(photos, poses.to(photos.device)) for photos, poses in parts])


def skeletons(joints: Tensor, side: int) -> Tensor:
    """B,18,2 -> B,3,S,S: limbs in colours of their own, as wide as they are in the picture of progress."""
    return pose_maps(joints, side, kind="stickman", radius=max(2.0, side / 64))


def blank(like: Tensor) -> Tensor:
    """A white image: there is nothing to show."""
    return torch.ones_like(like)


def framed(image: Tensor) -> Tensor:
    """3,S,S with a red frame."""
    width, inside = max(1, image.shape[-1] // 32), torch.zeros(image.shape[1:], dtype=torch.bool)
    inside[width:-width, width:-width] = True
    colour = FRAME_COLOUR.to(image)[:, None, None]
    return torch.where(inside.to(image.device), image, colour)


def titles(s: Scene) -> list[str]:
    return [f"{who.name} in the pose of {pose.name}" for who, pose in zip(s.people, s.poses, strict=True)]


def facts(s: Scene) -> Config:
    return {"images": [who.name for who in s.people], "poses": [pose.name for pose in s.poses]}


def given(s: Scene) -> dict[str, list[Tensor]]:
    """What the drawings are made from and compared with: x, c and, where a photo shows it, y."""
    columns = {"x": list(s.x), "c": list(skeletons(s.joints, s.x.shape[-1]))}
    if any(y is not None for y in s.y):
        columns["y"] = [blank(x) if y is None else y for x, y in zip(s.x, s.y, strict=True)]
    return columns


# ---- the figures


def grid(cfg: Config, model: PoseGAN, data: ImageData) -> Sheet:
    """Photos in other poses: x, the pose, the true photo of it where there is one, x-hat."""
    s = scene(cfg, model, data)
    return Sheet(given(s) | {"x-hat": list(draw(model, s.x, s.joints))}, titles(s), facts(s))


def compare(cfg: Config, model: PoseGAN, data: ImageData) -> Sheet:
    """Fig. 3 and 4, and a row for each of Table 2: x, pose, y, what the models of `other` draw, what this one draws."""
    s = scene(cfg, model, data, hardest=True)
    columns, files = given(s), {}
    for file in listed(cfg["other"]):
        drawn = draw(load_other(file, model), s.x, s.joints)
        heading = distinct(method(read_weights(file)["config"]), columns)
        columns[heading], files[heading] = list(drawn), file
    columns[distinct(method(model.hparams), columns)] = list(draw(model, s.x, s.joints))
    return Sheet(columns, titles(s), facts(s) | {"other": files})


def multires(cfg: Config, model: PoseGAN, data: ImageData) -> Sheet:
    """All that G draws, x-hat last, above the target at the same sizes."""
    s = scene(cfg, model, data)
    drawn = dict(zip([*model.names_of_drawn(), "x-hat"], model.drawn(s.x, s.joints), strict=True))
    columns: dict[str, list[Tensor]] = {}
    for name, images in drawn.items():
        side = images.shape[-1]
        true = [F.adaptive_avg_pool2d(x if y is None else y, side) for x, y in zip(s.x, s.y, strict=True)]
        true = [small if y is not None else blank(small) for small, y in zip(true, s.y, strict=True)]
        columns[name] = [image for pair in zip(images, true, strict=True) for image in pair]
    above = [line for title in titles(s) for line in (title, "the photo of that pose, at these sizes")]
    return Sheet(columns, above, facts(s))


def critics(cfg: Config, model: PoseGAN, data: ImageData) -> Sheet:
    """What the blocks say of real and drawn photos, level by level: sigmoids of RAPD and NVTD, white = real."""
    if not isinstance(model, GGB) or model.discriminator_ggb is None:
        raise UserError("figure=critics shows guiding blocks and this model has none: choose model=ggb.")
    if not str(cfg["checkpoint"]).endswith(".ckpt"):
        raise UserError("figure=critics needs a checkpoint, exported files hold no critics: give checkpoint=FILE.ckpt.")
    s = scene(cfg, model, data)
    if any(y is None for y in s.y):
        raise UserError("figure=critics compares with the photo of the pose: name two photos of one person.")
    y = torch.stack([image for image in s.y if image is not None])
    *lower, _ = model.drawn(s.x, s.joints)
    with torch.no_grad():
        said = model.discriminator_ggb(s.x, y, *lower)
    truth = downsized(y, model.levels, model.downsize)
    columns: dict[str, list[Tensor]] = {}
    for small, fake, judged in zip(truth, lower, said, strict=True):
        pairs = {"y^n": small, "x-hat^n": fake}
        for name, logits in (("D_a", judged.appearance), ("D_v", judged.variation)):
            for what, map_ in zip(("y", "x-hat"), logits, strict=False):
                pairs[f"{name} of {what}"] = 2 * map_.sigmoid().expand(-1, 3, -1, -1) - 1
        for heading, images in pairs.items():
            columns.setdefault(heading, []).extend(images)
    above = [f"level {n}: {title}" for n in model.levels for title in titles(s)]
    return Sheet(columns, above, facts(s))


def swap(cfg: Config, model: PoseGAN, data: ImageData) -> Sheet:
    """Pose swap: a row for each person, a column for each pose; in a red frame who is drawn in their own pose."""
    asked, texts = listed(cfg["images"]), listed(cfg["texts"])
    people = [person(name, data) for name in asked] or people_of(data, number(cfg, "n", 1))
    poses = [pose(text, data, frame_of(cfg)) for text in texts] or [own_pose(who, data) for who in people]
    pairs = list(product(people, poses))
    s = arranged([who for who, _ in pairs], [each for _, each in pairs], model, data)
    drawn = draw(model, s.x, s.joints).unflatten(0, (len(people), len(poses)))
    heads = skeletons(to_model(np.stack([each.joints for each in poses]), data).to(model.device), model.image_size)
    x = s.x[:: len(poses)]
    columns = {"photo": [blank(x[0]), *x]}
    for k, each in enumerate(poses):
        own = [each.row is not None and each.row == who.row for who in people]
        images = [framed(image) if mine else image for image, mine in zip(drawn[:, k], own, strict=True)]
        columns[f"pose {k + 1}"] = [heads[k], *images]
    told = {"images": [who.name for who in people], "poses": [each.name for each in poses]}
    above = [f"poses: {'; '.join(told['poses'])}", *told["images"]]
    return Sheet(columns, above, told)


def own_pose(who: Person, data: ImageData) -> Pose:
    if who.row is None:
        raise UserError(f"{who.name} is a file and its pose is not known: say which poses, as in texts=[walk,sit].")
    return pose(who.name, data, "auto")


def strip(cfg: Config, model: PoseGAN, data: ImageData) -> Sheet:
    """A walk: people in `steps` poses, one after another; a row of skeletons and one of drawings for each person.

    texts: two poses or more, between which joints move in straight lines, or a csv of key points in the order of its
    lines, of which every k-th is shown; none = a drawn walk. A csv and the drawn walk are moved onto the person.
    """
    people = [person(name, data) for name in listed(cfg["images"])] or people_of(data, 1)
    x, count = photos(people, data).to(model.device), number(cfg, "steps", 2)
    names, of_people = sequence(cfg, people, data, count)
    columns: dict[str, list[Tensor]] = {"photo": [image for own in x for image in (blank(own), own)]}
    joints = [to_model(poses, data).to(model.device) for poses in of_people]
    drawn = [draw(model, own.expand(len(poses), -1, -1, -1), poses) for own, poses in zip(x, joints, strict=True)]
    lines = [skeletons(poses, model.image_size) for poses in joints]
    for t in range(len(joints[0])):
        columns[f"frame {t + 1}"] = [
            image for pair in zip(lines, drawn, strict=True) for image in (pair[0][t], pair[1][t])
        ]
    above = [line for who in people for line in (f"{who.name}: {', '.join(names)}", "")]
    return Sheet(columns, above, {"images": [who.name for who in people], "poses": names})


def sequence(cfg: Config, people: Sequence[Person], data: ImageData, count: int) -> tuple[list[str], list[np.ndarray]]:
    """What the poses of a walk come from, and for each person T,18,2 in the frame of 256 x 256."""
    texts = listed(cfg["texts"])
    known = [None if who.row is None or data.records.joints is None else joints_of(who.row, data) for who in people]
    if len(texts) == 1 and texts[0].endswith(".csv"):
        frames = [joints for joints in clip(texts[0], frame_of(cfg)).values() if (joints >= 0).any()]
        if not frames:
            raise UserError(f"{texts[0]} shows nobody: choose another file of key points.")
        poses = np.stack(frames)[np.linspace(0, len(frames) - 1, min(count, len(frames))).astype(int)]
        return texts, [onto(poses, own) for own in known]
    if texts in ([], ["walk"]):
        return ["walk"], [onto(walk(count), own) for own in known]
    if len(texts) == 1:
        raise UserError(f"figure=walk goes from pose to pose and texts has one, {texts[0]}: give two, or a FILE.csv.")
    stops = [pose(text, data, frame_of(cfg)) for text in texts]
    return [each.name for each in stops], [
        between(np.stack([worn(each, who, data) for each in stops]), count) for who in people
    ]


FIGURES: dict[str, Callable[[Config, PoseGAN, ImageData], Sheet]] = {
    "grid": grid,
    "compare": compare,
    "multires": multires,
    "critics": critics,
    "swap": swap,
    "walk": strip,
}


# ---- other models


def load_other(path: str, model: PoseGAN) -> PoseGAN:
    """A pose model of another run from its exported file, on the device of this one and of its image size."""
    content = read_weights(path)
    if content.get("kind") not in KINDS or "config" not in content:
        raise UserError(f"other={path} is no exported pose model: give the .pt that its fit left in the run's folder.")
    other = KINDS[content["kind"]](**content["config"])
    if other.image_size != model.image_size:
        raise UserError(
            f"other={path} draws at {other.image_size} px and this model at {model.image_size}: give one of that size."
        )
    other.restore(path)
    return other.to(model.device).eval()


def method(settings: Mapping[str, Any]) -> str:
    """A model's name in Table 2, by its settings, and what makes it a control."""
    if "levels" not in settings:
        return "PG2"
    count, seen = len(settings["levels"]), settings.get("d_cond", "none")
    apart = [] if seen == "none" else [f"D sees {', '.join(seen)}"]
    if not count:
        return ", ".join(["w/o GGBs", *apart])
    if settings.get("g_update", "sequential") != "sequential":
        apart.append(settings["g_update"])
    if not settings.get("e_trainable", True):
        apart.append("random E")
    absent = [name.upper() for name in ("rapd", "nvtd") if not settings.get(f"use_{name}", True)]
    name = f"w/o {', '.join(absent)}" if absent else f"{count} GGB{'s' if count > 1 else ''}"
    return ", ".join(["no critics" if settings.get("multirec") else name, *apart])


def distinct(heading: str, columns: Mapping[str, Any]) -> str:
    """A second model of the same name is the second."""
    same = sum(name.partition(" #")[0] == heading for name in columns)
    return f"{heading} #{same + 1}" if same else heading


# ---- task=figure, task=sample


def figure(cfg: Config, model: PoseGAN, data: ImageData, folder: Path) -> Path:
    """The figure that cfg["figure"] names, of the user's photos and poses or of test pairs. A walk is a GIF too."""
    name = one_of(cfg, "figure", tuple(FIGURES))
    path = destination(cfg, folder, f"{name}.png")
    drawn = FIGURES[name](cfg, model, data)
    told = {"figure": name, "n": cfg["n"], "steps": cfg["steps"], "rows": drawn.above} | drawn.facts
    if name == "walk":
        told["animation"] = animate(drawn, path.with_suffix(".gif")).name
    return write(cfg, folder, path, drawn.columns, drawn.above, told)  # type: ignore[arg-type]


def animate(drawn: Sheet, path: Path) -> Path:
    """The columns of a walk, one after another, beside the photos."""
    frames = [
        sheet({"photo": drawn.columns["photo"], name: images}, side=max(128, images[0].shape[-1]))
        for name, images in drawn.columns.items()
        if name != "photo"
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    first, *rest = (frame.convert("P", palette=Image.Palette.ADAPTIVE) for frame in frames)
    first.save(path, save_all=True, append_images=rest, duration=FRAME_MS, loop=0)
    return path


def sample(cfg: Config, model: PoseGAN, data: ImageData, folder: Path) -> Path:
    """Every photo of `image` in every pose of `text`: a sheet, and beside it each drawing as a PNG.

    image: files, or photos of the data set by name. text: photos of the data set, FILE.csv:NAME, or drawn poses.
    """
    asked, texts = listed(cfg["image"]), listed(cfg["text"])
    if not asked or not texts:
        raise UserError(
            "task=sample draws a person in a pose: give image=PHOTO and text=POSE, another photo's name, FILE.csv:NAME "
            "or a word such as walk."
        )
    path = destination(cfg, folder, f"{Path(asked[0]).stem}-{short_hash([asked, texts])}.png")
    people = [person(name, data) for name in asked]
    pairs = list(product(people, [pose(text, data, frame_of(cfg)) for text in texts]))
    s = arranged([who for who, _ in pairs], [each for _, each in pairs], model, data)
    drawn = draw(model, s.x, s.joints)
    files = [path.with_name(f"{path.stem}-{k}.png") for k in range(1, len(pairs) + 1)]
    for image, file in zip(drawn, files, strict=True):
        to_picture(image).save(file)
    rows = [
        {"image": who.name, "pose": each.name, "drawing": file.name}
        for (who, each), file in zip(pairs, files, strict=True)
    ]
    return write(cfg, folder, path, given(s) | {"x-hat": list(drawn)}, titles(s), {"rows": rows})
