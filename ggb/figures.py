"""The figures of GGB, the U-Net and PG2, each a function (model, data, request) -> Sheet.

B pairs of a photo and a pose, S side. x source, c target pose, y target photo, x-hat the drawing. There is no noise:
the same command draws the same.
"""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from common.config import as_list
from common.data.module import ImageData
from common.errors import UserError
from common.pictures import Request, Sheet
from common.weights import read_weights
from ggb import skeletons
from ggb.figure_inputs import (
    Person,
    Pose,
    arranged,
    blank,
    clip,
    frame_of,
    joints_of,
    people_of,
    person,
    photos,
    pose,
    scene,
    stickmen,
    to_model,
    worn,
)
from ggb.model import GGB
from ggb.networks import downsized
from ggb.pg2 import PG2
from ggb.serving import PoseGAN
from ggb.skeletons import between, onto

KINDS: dict[str, type[PoseGAN]] = {"ggb": GGB, "pg2": PG2}  # of exported files
FRAME_COLOUR = torch.tensor([1.0, -0.6, -0.6])  # round a photo drawn in its own pose


def framed(image: Tensor) -> Tensor:
    """3,S,S with a red frame."""
    width, inside = max(1, image.shape[-1] // 32), torch.zeros(image.shape[1:], dtype=torch.bool)
    inside[width:-width, width:-width] = True
    colour = FRAME_COLOUR.to(image)[:, None, None]
    return torch.where(inside.to(image.device), image, colour)


def grid(model: PoseGAN, data: ImageData, request: Request) -> Sheet:
    """Photos in other poses: x, the pose, the true photo of it where there is one, x-hat."""
    s = scene(data, request, model.device)
    return Sheet({**s.given, "x-hat": list(model.generate(s.x, s.joints))}, s.titles, s.facts)


def compare(model: PoseGAN, data: ImageData, request: Request) -> Sheet:
    """Fig. 3 and 4, and a row for each of Table 2: x, pose, y, what the models of
    pictures.other make, what this one makes."""
    s = scene(data, request, model.device, hardest=True)
    columns, files = s.given, {}
    for file in as_list(request.settings["other"]):
        generated = load_other(file, model).generate(s.x, s.joints)
        heading = distinct(method(read_weights(file)["config"]), columns)
        columns[heading], files[heading] = list(generated), file
    columns[distinct(method(model.hparams), columns)] = list(model.generate(s.x, s.joints))
    return Sheet(columns, s.titles, s.facts | {"other": files})


def multires(model: PoseGAN, data: ImageData, request: Request) -> Sheet:
    """All that G draws, x-hat last, above the target at the same sizes."""
    s = scene(data, request, model.device)
    generated = dict(zip([*model.coarse_names(), "x-hat"], model.infer(s.x, s.joints), strict=True))
    columns: dict[str, list[Tensor]] = {}
    for name, images in generated.items():
        side = images.shape[-1]
        true = [F.adaptive_avg_pool2d(x if y is None else y, side) for x, y in zip(s.x, s.y, strict=True)]
        true = [small if y is not None else blank(small) for small, y in zip(true, s.y, strict=True)]
        columns[name] = [image for pair in zip(images, true, strict=True) for image in pair]
    above = [line for title in s.titles for line in (title, "the photo of that pose, at these sizes")]
    return Sheet(columns, above, s.facts)


def critics(model: PoseGAN, data: ImageData, request: Request) -> Sheet:
    """What the blocks say of real and generated photos, level by level: sigmoids of RAPD and NVTD, white = real."""
    if not isinstance(model, GGB) or model.discriminator_ggb is None:
        raise UserError("figure=critics shows guiding blocks and this model has none: choose model=ggb.")
    s = scene(data, request, model.device)
    if any(y is None for y in s.y):
        raise UserError("figure=critics compares with the photo of the pose: name two photos of one person.")
    y = torch.stack([image for image in s.y if image is not None])
    *lower, _ = model.infer(s.x, s.joints)
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
    above = [f"level {n}: {title}" for n in model.levels for title in s.titles]
    return Sheet(columns, above, s.facts)


def swap(model: PoseGAN, data: ImageData, request: Request) -> Sheet:
    """Pose swap: a row for each person, a column for each pose; in a red frame who is drawn in their own pose."""
    people = [person(name, data) for name in request.images] or people_of(data, request.n)
    poses = [pose(text, data) for text in request.texts] or [own_pose(who, data) for who in people]
    pairs = list(product(people, poses))
    s = arranged([who for who, _ in pairs], [each for _, each in pairs], data, model.device)
    generated = model.generate(s.x, s.joints).unflatten(0, (len(people), len(poses)))
    heads = stickmen(to_model(np.stack([each.joints for each in poses]), data).to(model.device), model.image_size)
    x = s.x[:: len(poses)]
    columns = {"photo": [blank(x[0]), *x]}
    for k, each in enumerate(poses):
        own = [each.row is not None and each.row == who.row for who in people]
        images = [framed(image) if mine else image for image, mine in zip(generated[:, k], own, strict=True)]
        columns[f"pose {k + 1}"] = [heads[k], *images]
    told = {"images": [who.name for who in people], "poses": [each.name for each in poses]}
    above = [f"poses: {'; '.join(told['poses'])}", *told["images"]]
    return Sheet(columns, above, told)


def own_pose(who: Person, data: ImageData) -> Pose:
    """The pose of a photo of the data set. UserError for a file, whose pose nobody knows."""
    if who.row is None:
        raise UserError(f"{who.name} is a file and its pose is not known: say which poses, as in texts=[walk,sit].")
    return pose(who.name, data)


def walk(model: PoseGAN, data: ImageData, request: Request) -> Sheet:
    """A walk: people in `steps` poses, one after another; a row of skeletons and one of drawings for each person.

    texts: two poses or more, between which joints move in straight lines, or a csv of key points in the order of its
    lines, of which every k-th is shown; none = a drawn walk. A csv and the drawn walk are moved onto the person.
    """
    people = [person(name, data) for name in request.images] or people_of(data, 1)
    x = photos(people, data).to(model.device)
    names, of_people = sequence(data, request, people)
    columns: dict[str, list[Tensor]] = {"photo": [image for own in x for image in (blank(own), own)]}
    joints = [to_model(poses, data).to(model.device) for poses in of_people]
    generated = [
        model.generate(own.expand(len(poses), -1, -1, -1), poses) for own, poses in zip(x, joints, strict=True)
    ]
    lines = [stickmen(poses, model.image_size) for poses in joints]
    for t in range(len(joints[0])):
        columns[f"frame {t + 1}"] = [
            image for pair in zip(lines, generated, strict=True) for image in (pair[0][t], pair[1][t])
        ]
    above = [line for who in people for line in (f"{who.name}: {', '.join(names)}", "")]
    told = {"images": [who.name for who in people], "poses": names}
    return Sheet(columns, above, told, moving=[name for name in columns if name != "photo"])


def sequence(data: ImageData, request: Request, people: Sequence[Person]) -> tuple[list[str], list[np.ndarray]]:
    """What the poses of a walk come from, and for each person T,18,2 in the frame of 256 x 256."""
    texts, count = list(request.texts), request.steps
    known = [None if who.row is None or data.records.joints is None else joints_of(who.row, data) for who in people]
    if len(texts) == 1 and texts[0].endswith(".csv"):
        frames = [joints for joints in clip(texts[0], frame_of(data)).values() if (joints >= 0).any()]
        if not frames:
            raise UserError(f"{texts[0]} shows nobody: choose another file of key points.")
        poses = np.stack(frames)[np.linspace(0, len(frames) - 1, min(count, len(frames))).astype(int)]
        return texts, [onto(poses, own) for own in known]
    if texts in ([], ["walk"]):
        return ["walk"], [onto(skeletons.walk(count), own) for own in known]
    if len(texts) == 1:
        raise UserError(f"figure=walk goes from pose to pose and texts has one, {texts[0]}: give two, or a FILE.csv.")
    stops = [pose(text, data) for text in texts]
    return [each.name for each in stops], [
        between(np.stack([worn(each, who, data) for each in stops]), count) for who in people
    ]


# ---- other models


def load_other(path: str, model: PoseGAN) -> PoseGAN:
    """A pose model of another run from its exported file, on the device of this one and of its image size."""
    content = read_weights(path)
    if content.get("kind") not in KINDS or "config" not in content:
        raise UserError(
            f"pictures.other={path} is no exported pose model: give the .pt that its fit left in the run's folder."
        )
    other = KINDS[content["kind"]].load(path)
    if other.image_size != model.image_size:
        raise UserError(
            f"pictures.other={path} draws at {other.image_size} px and this model at {model.image_size}: give one of "
            "that size."
        )
    return other.to(model.device)


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
    blocks = settings.get("blocks", {})
    if not blocks.get("e_trainable", True):
        apart.append("random E")
    absent = [name.upper() for name in ("rapd", "nvtd") if not blocks.get(name, True)]
    name = f"w/o {', '.join(absent)}" if absent else f"{count} GGB{'s' if count > 1 else ''}"
    return ", ".join(["no critics" if settings.get("multirec") else name, *apart])


def distinct(heading: str, columns: Mapping[str, Any]) -> str:
    """A second model of the same name is the second."""
    same = sum(name.partition(" #")[0] == heading for name in columns)
    return f"{heading} #{same + 1}" if same else heading
