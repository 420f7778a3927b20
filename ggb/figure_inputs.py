"""Whom a user asked to be drawn in which pose: photos, key points and drawn poses by their names.

B pairs of a photo and a pose, S side. Joints are 18,2 in the frame of 256 x 256 until they are handed to the model.
"""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from common.data.module import ImageData
from common.data.poses import in_window, pose_distance, pose_maps
from common.data.readers.fashion_csv import read_joints
from common.data.readers.fashion_names import parse
from common.data.records import FRAME
from common.errors import UserError
from common.pictures import Images, Request, pixels
from ggb.skeletons import DRAWN, onto


class Person(NamedTuple):
    """Who is to be drawn."""

    name: str  # key of a photo of the data set, or a file
    row: int | None  # in Records; None = a file


class Pose(NamedTuple):
    """A pose and who shows it."""

    name: str
    joints: np.ndarray  # 18,2 int64
    row: int | None = None  # of the photo of the data set that shows it
    free: bool = False  # of nobody in particular: moved onto who is drawn


# ---- by name


def person(name: str, data: ImageData) -> Person:
    """A photo's file, or a photo of the data set by its name in any spelling. UserError for what is neither."""
    if Path(name).expanduser().is_file():
        return Person(name, None)
    row = row_of(name, data, ())
    return Person(data.records.keys[row], row)


def row_of(name: str, data: ImageData, words: Sequence[str]) -> int:
    """The row of a photo of the data set. UserError with the nearest of these words and the photos' names."""
    records, key = data.records, parse(name) or parse(f"{name}.jpg") or name
    if key not in records.keys:
        near = difflib.get_close_matches(name, [*words, *records.keys], n=1) or records.keys[:1]
        known = f"a drawn pose ({', '.join(words)}), FILE.csv:NAME" if words else "a file"
        raise UserError(f"{name} is neither {known} nor a photo of {records.name}: the nearest is {near[0]}.")
    row = records.keys.index(key)
    if "store" in data.__dict__ and not data.store.ok[row]:
        raise UserError(f"{records.images[row]} cannot be read: name another photo.")
    return row


def pose(text: str, data: ImageData) -> Pose:
    """A drawn pose by its word, one of a file as FILE.csv:NAME, or that of a photo of the data set.

    UserError where there is none, or nobody.
    """
    if text in DRAWN:
        return Pose(text, DRAWN[text], free=True)
    file, stop, name = text.rpartition(".csv:")
    if stop:
        table = clip(f"{file}.csv", frame_of(data))
        found = name if name in table else parse(name) or parse(f"{name}.jpg") or name
        if found not in table:
            near = (difflib.get_close_matches(name, table, n=1) or [*table])[0]
            raise UserError(f"{file}.csv has no line of {name}: the nearest is {near}.")
        return shown(Pose(text, table[found]), f"line of {name} in {file}.csv")
    if text.endswith(".csv"):
        raise UserError(f"{text} holds the poses of many photos: say which, as in {text}:NAME.")
    if Path(text).expanduser().is_file():
        raise UserError(
            f"{text} is a file and its key points are not known: name a photo of the data set, a line of a file as "
            f"FILE.csv:NAME (task=prepare prepare=poses makes one), or one of {', '.join(DRAWN)}."
        )
    row = row_of(text, data, tuple(DRAWN))
    key = data.records.keys[row]
    return shown(Pose(key, joints_of(row, data), row), f"photo {key}")


def shown(pose: Pose, where: str) -> Pose:
    """The pose, where there is one."""
    if (pose.joints < 0).all():
        raise UserError(f"the {where} has no key points, nobody was found in it: choose another.")
    return pose


def clip(file: str, frame: str) -> dict[str, np.ndarray]:
    """Name -> 18,2 of a csv of key points, which may be of anyone's photos, in the order of its lines."""
    path = Path(file).expanduser()
    if not path.is_file():
        raise UserError(f"there is no file of key points at {path}: correct the path.")
    if frame == "auto" and "resize" not in path.name:
        frame = "256"  # a few poses say nothing of how wide their frame is
    table = {name: joints.astype(np.int64) for name, joints in read_joints([path], frame, any_name)[0].items()}
    if not table:
        raise UserError(f"{path} has no line of key points below its first: correct the path.")
    return table


def any_name(name: str) -> str:
    """A photo's key, or a name of a user's own as it stands."""
    return parse(name) or name.strip()


def joints_of(row: int, data: ImageData) -> np.ndarray:
    """18,2 of a photo of the data set. UserError where the data set has no key points at all."""
    records = data.records
    if records.joints is None:
        raise UserError(
            f"{records.name} in {records.root} has no key points: make them with task=prepare prepare=poses, or take "
            f"a drawn pose, one of {', '.join(DRAWN)}."
        )
    return records.joints[row].astype(np.int64)


# ---- pixels


def photos(people: Sequence[Person], data: ImageData) -> Tensor:
    """B,3,S,S in [-1, 1], from wherever they are."""
    return pixels(Images([each.name for each in people], [each.row for each in people]), data)


def to_model(joints: np.ndarray, data: ImageData) -> Tensor:
    """B,18,2 in the frame of 256 x 256 -> B,18,2 int64 in pixels of the windows that photos are drawn from."""
    start = np.full(len(joints), int((data.load_size - data.image_size + 1) / 2))
    return torch.from_numpy(in_window(joints, data.load_size, start, start, data.image_size))


def worn(pose: Pose, who: Person, data: ImageData) -> np.ndarray:
    """18,2: the pose as it is, or a free one moved onto the person, where a key point says where they stand."""
    if not pose.free or who.row is None or data.records.joints is None:
        return pose.joints
    return onto(pose.joints[None], data.records.joints[who.row].astype(np.int64))[0]


# ---- scenes


class Scene(NamedTuple):
    """B people, each with a pose, on the model's device."""

    people: list[Person]
    poses: list[Pose]
    x: Tensor  # B,3,S,S
    joints: Tensor  # B,18,2 in pixels of x
    y: list[Tensor | None]  # the photo of that pose, where it is of the same person in the same clothes

    @property
    def titles(self) -> list[str]:
        """Who in which pose, for each picture."""
        return [f"{who.name} in the pose of {pose.name}" for who, pose in zip(self.people, self.poses, strict=True)]

    @property
    def facts(self) -> dict[str, list[str]]:
        return {"images": [who.name for who in self.people], "poses": [pose.name for pose in self.poses]}

    @property
    def given(self) -> dict[str, list[Tensor]]:
        """What pictures are made from and compared with: x, c and, where a photo shows it, y."""
        columns = {"x": list(self.x), "c": list(stickmen(self.joints, self.x.shape[-1]))}
        if any(y is not None for y in self.y):
            columns["y"] = [blank(x) if y is None else y for x, y in zip(self.x, self.y, strict=True)]
        return columns


def stickmen(joints: Tensor, side: int) -> Tensor:
    """B,18,2 -> B,3,S,S: limbs in colours of their own, as wide as they are in the picture of progress."""
    return pose_maps(joints, side, kind="stickman", radius=max(2.0, side / 64))


def blank(like: Tensor) -> Tensor:
    """A white image: there is nothing to show."""
    return torch.ones_like(like)


def arranged(people: list[Person], poses: list[Pose], data: ImageData, device: torch.device) -> Scene:
    """The photos and poses of pairs, on the model's device."""
    joints = to_model(np.stack([worn(pose, who, data) for who, pose in zip(people, poses, strict=True)]), data)
    true = [same(who, pose, data) for who, pose in zip(people, poses, strict=True)]
    rows = [Person(pose.name, pose.row) for pose, there in zip(poses, true, strict=True) if there]
    targets = iter(photos(rows, data).to(device) if rows else ())
    y = [next(targets) if there else None for there in true]
    return Scene(people, poses, photos(people, data).to(device), joints.to(device), y)


def same(who: Person, pose: Pose, data: ImageData) -> bool:
    """Whether the pose's photo shows the person, in the same clothes."""
    if who.row is None or pose.row is None:
        return False
    identities = data.records.identities
    return identities is not None and bool(identities[who.row] == identities[pose.row])


def scene(data: ImageData, request: Request, device: torch.device, *, hardest: bool = False) -> Scene:
    """The user's photos in the user's poses (one for all, or one each), or in that of another photo of the same person;
    else `n` test pairs, the hardest by distance of their poses or some from all over the list."""
    if not request.images and not request.texts:
        pairs = test_pairs(data, request.n, hardest)
        keys = data.records.keys
        people = [Person(keys[row], int(row)) for row in pairs[:, 0]]
        poses = [Pose(keys[row], joints_of(row, data), int(row)) for row in pairs[:, 1]]
        return arranged(people, poses, data, device)
    people = [person(name, data) for name in request.images] or people_of(data, 1)
    poses = [pose(text, data) for text in request.texts]
    image, text = request.pairs()
    people = [people[i] for i in image]
    poses = [poses[t] for t in text] if poses else [other_pose(who, data) for who in people]
    return arranged(people, poses, data, device)


def frame_of(data: ImageData) -> str:
    """data.annotation_frame."""
    return getattr(data.dataset, "annotation_frame", "auto")


def other_pose(who: Person, data: ImageData) -> Pose:
    """That of another photo of the same person in the same clothes, the one farthest from theirs."""
    if who.row is None:
        raise UserError(f"{who.name} is a file and no other pose of it is known: give a pose too, such as walk.")
    own, identities = joints_of(who.row, data), data.records.identities
    assert identities is not None
    rows = [int(r) for r in np.flatnonzero(identities == identities[who.row]) if r != who.row]
    rows = [row for row in rows if (joints_of(row, data) >= 0).any()]
    if not rows:
        raise UserError(f"{who.name} has no other photo with key points: give a pose too, such as walk.")
    others = torch.from_numpy(np.stack([joints_of(row, data) for row in rows]))
    far = rows[int(distance(torch.from_numpy(own)[None], others).argmax())]
    return Pose(data.records.keys[far], joints_of(far, data), far)


def distance(source: Tensor, target: Tensor) -> Tensor:
    """B: mean displacement of the joints that both have, in sides, and the share of those that come or go."""
    moved, changed = pose_distance(source, target, FRAME)
    return moved + changed


def test_pairs(data: ImageData, count: int, hardest: bool) -> np.ndarray:
    """P,2 rows of the test pairs whose target shows somebody, each of another identity as long as there are others."""
    pairs, records = data.pose_pairs("test"), data.records
    joints_of(0, data)  # or a sentence
    assert records.joints is not None
    assert records.identities is not None
    pairs = pairs[(records.joints[pairs] >= 0).any((2, 3)).all(1)]
    if not len(pairs):
        raise UserError(f"{records.name} in {records.root} has no test pairs of two poses: give images and texts.")
    if hardest:
        source, target = (torch.from_numpy(records.joints[pairs[:, k]].astype(np.int64)) for k in (0, 1))
        pairs = pairs[np.argsort(-distance(source, target).numpy(), kind="stable")]
    else:
        pairs = pairs[np.random.default_rng(0).permutation(len(pairs))]
    _, first = np.unique(records.identities[pairs[:, 0]], return_index=True)
    later = np.setdiff1d(np.arange(len(pairs)), first)
    return pairs[np.concatenate([np.sort(first), later])][:count]


def people_of(data: ImageData, count: int) -> list[Person]:
    """Test photos of as many identities, of each the one that shows most joints."""
    records, rows = data.records, data.rows("test")
    joints_of(0, data)
    assert records.joints is not None
    assert records.identities is not None
    seen = (records.joints[rows] >= 0).all(-1).sum(1)
    rows = rows[np.argsort(-seen, kind="stable")][: np.count_nonzero(seen)]
    if not len(rows):
        raise UserError(f"no test photo of {records.name} in {records.root} has key points: give images and texts.")
    _, first = np.unique(records.identities[rows], return_index=True)
    rows = rows[np.sort(first)]
    chosen = rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int)]
    return [Person(records.keys[row], int(row)) for row in chosen]
