"""The one-off job `task=prepare prepare=poses`: key points of people's photos by torchvision's key-point R-CNN.

For photos without published key points (Mask R-CNN: He et al., ICCV 2017, Sec. 5, trained on COCO's 17 joints).
Joints are 18,2 in OpenPose's order, in the frame of 256 x 256; -1, -1 = missing.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models.detection import keypointrcnn_resnet50_fpn

from common.data.geometry import centre_crop, fit, framed, upright
from common.data.poses import JOINTS, NAMED
from common.data.readers.fashion_csv import write_joints
from common.data.readers.fashion_names import flat
from common.data.records import FRAME, Records
from common.data.store import unreadable
from common.errors import UserError
from common.files import UNREADABLE, file_hash, open_image, whole, write_whole
from common.tasks.job import Job
from common.weights import KNOWN_FILES, load_known, read_state, require_weights

log = logging.getLogger(__name__)

Config = dict[str, Any]
WEIGHTS_FILE = KNOWN_FILES["keypoint_rcnn"].name
COCO = (
    *("nose", "left eye", "right eye", "left ear", "right ear", "left shoulder", "right shoulder", "left elbow"),
    *("right elbow", "left wrist", "right wrist", "left hip", "right hip", "left knee", "right knee", "left ankle"),
    "right ankle",
)
PLACES = [NAMED[name] for name in COCO]
SHOULDERS = [COCO.index("left shoulder"), COCO.index("right shoulder")]
ENDINGS = (".jpg", ".jpeg", ".png")
TOLD_EVERY = 1000  # photos between two lines of the log


def estimate(job: Job) -> None:
    """Key points of a data set's photos, or of a folder's: job.path (.csv), and beside it how they were made (.json).

    Where the data set has none they are put among its files too, for its reader to find.
    """
    cfg, asked = job.cfg, job.settings
    net = load_network(weights_file(asked["weights"]), asked["min_size"])  # refused before anything is read
    records = None if asked["photos"] else job.records
    files = (
        own_photos(asked["photos"])
        if records is None
        else dict(zip(map(flat, records.keys), records.images, strict=True))
    )
    device = "cuda" if torch.cuda.is_available() and cfg["trainer"]["accelerator"] != "cpu" else "cpu"
    settings = {"least_person": asked["least_person"], "least_joint": asked["least_joint"]}
    photos = {"skip": cfg["data"]["allow_missing"], "framing": records.framing if records is not None else ""}
    joints = find(net.to(device), files, cfg["data"]["batch_size"], **photos, **settings)
    nobody = [name for name, points in joints.items() if (points < 0).all()]
    if nobody:
        log.warning("%d of %d photos show nobody, the first: %s", len(nobody), len(joints), nobody[0])
    weights = weights_file(asked["weights"])
    told = {"estimator": "torchvision keypointrcnn_resnet50_fpn", "weights": weights.name, "hash": file_hash(weights)}
    told |= settings | {"min_size": asked["min_size"], "photos": len(joints), "nobody": nobody}
    write(job.path, joints, told)
    if records is not None:
        install(records, joints, told, job.path)


# ---- photos


def own_photos(folder: str) -> dict[str, Path]:
    """Name -> file of the photos of any folder, in the order of their names."""
    place = Path(folder).expanduser()
    if not place.is_dir():
        raise UserError(f"prepare.photos={folder} is no folder: correct the path.")
    files = {path.name: path for path in sorted(place.iterdir()) if path.suffix.lower() in ENDINGS}
    if not files:
        raise UserError(f"{place} has no {', '.join(ENDINGS)} in it: name a folder of photos.")
    if strange := [name for name in files if ":" in name]:
        raise UserError(f"{place / strange[0]} has a colon in its name, which ends a name in a csv: rename it.")
    return files


def read_photo(path: Path, framing: str = "") -> Tensor:
    """3,256,256 in [0, 1]: the middle of the photo, cut as test images are. framing: Records.framing."""
    with open_image(path) as file:
        photo = fit(framed(upright(file), framing), FRAME)
    pixels = centre_crop(np.asarray(photo), FRAME)
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1) / 255


# ---- the network


def weights_file(path: str | None) -> Path:
    """The file given, or torchvision's own in torch.hub's folder. UserError where neither is there."""
    remedy = f"download {WEIGHTS_FILE} and give prepare.weights=FILE"
    return require_weights("keypoint_rcnn", path, "prepare=poses looks through", remedy)


def load_network(path: Path, min_size: int) -> nn.Module:
    """Key-point R-CNN with the weights of a file, of photos enlarged to min_size. It gives the best person alone."""
    net = keypointrcnn_resnet50_fpn(weights=None, weights_backbone=None, min_size=min_size, box_detections_per_img=1)
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eps = 0.0  # the weights of COCO were made with statistics that were frozen so
    return load_known(net, read_state(path), "keypoint_rcnn", path).eval()


@torch.no_grad()
def find(
    net: nn.Module,
    files: Mapping[str, Path],
    batch_size: int,
    *,
    least_person: float,
    least_joint: float,
    skip: bool = False,
    framing: str = "",
) -> dict[str, np.ndarray]:
    """Name -> 18,2 of each photo. skip: an unreadable photo shows nobody, instead of a UserError."""
    device = next(net.parameters()).device
    found: dict[str, np.ndarray] = {}
    names = list(files)
    for start in range(0, len(names), batch_size):
        photos: dict[str, Tensor] = {}
        for name in names[start : start + batch_size]:
            try:
                photos[name] = read_photo(files[name], framing).to(device)
            except UNREADABLE as error:
                if not skip:
                    raise UserError(unreadable(files[name], error)) from None
        found |= {name: np.full((len(JOINTS), 2), -1) for name in names[start : start + batch_size]}
        for name, told in zip(photos, net(list(photos.values())) if photos else (), strict=True):
            found[name] = to_joints(told, least_person=least_person, least_joint=least_joint)
        if len(found) // TOLD_EVERY > start // TOLD_EVERY:
            log.info("key points of %d of %d photos", len(found), len(names))
    return found


def to_joints(found: Mapping[str, Tensor], *, least_person: float, least_joint: float) -> np.ndarray:
    """What the network says of a photo -> 18,2 int64, of the person of the highest score.

    found: scores P, keypoints P,17,3 (x, y; the third is always 1), keypoints_scores P,17 (logits). The neck, which
    COCO lacks, is the middle of the shoulders. Nobody of least_person, a joint below least_joint or outside: missing.
    """
    joints = np.full((len(JOINTS), 2), -1)
    scores = found["scores"].cpu().numpy()
    if not len(scores) or scores.max() < least_person:
        return joints
    best = int(scores.argmax())
    points = found["keypoints"][best, :, :2].cpu().numpy()
    pixels = np.rint(points).astype(np.int64)
    sure = found["keypoints_scores"][best].cpu().numpy() >= least_joint
    kept = sure & ((pixels >= 0) & (pixels < FRAME)).all(1)
    joints[PLACES] = np.where(kept[:, None], pixels, -1)
    if kept[SHOULDERS].all():
        joints[NAMED["neck"]] = np.rint(points[SHOULDERS].mean(0))
    return joints


# ---- files


def write(path: Path, joints: Mapping[str, np.ndarray], told: Config) -> None:
    """The csv, whole or not at all, and its .json."""
    with whole(path) as part:
        write_joints(part, joints)
    write_whole(path.with_suffix(".json"), json.dumps(told, indent=1))


def install(records: Records, joints: Mapping[str, np.ndarray], told: Config, path: Path) -> None:
    """fasion-annotation-{train,test}.csv among the files of a data set that has no key points."""
    if records.joints is not None:
        log.info("%s in %s has key points, which stay as they are: these are in %s", records.name, records.root, path)
        return
    parts: dict[str, Sequence[bool]] = {"train": (~records.test).tolist(), "test": records.test.tolist()}
    try:
        for part, mine in parts.items():
            own = {flat(key): joints[flat(key)] for key, yes in zip(records.keys, mine, strict=True) if yes}
            write(records.root / f"fasion-annotation-{part}.csv", own, told)
    except UserError as error:  # the data set may lie where nothing can be written
        log.warning("%s: copy %s there", error, path)
        return
    log.info("written too: fasion-annotation-train.csv and -test.csv in %s", records.root)
