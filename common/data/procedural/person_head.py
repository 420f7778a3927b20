"""The polygons of a drawn person's head: hair, face and features, placed on an ellipsoid so that they turn with it."""

import numpy as np

from common.data.procedural.canvas import Shape, ellipse, lines, smooth, stroke, tinted
from common.data.procedural.people import FEATURES, HAIR, HEAD, SKIN, Person, Pose


def face_edge(pose: Pose, around: np.ndarray, below: np.ndarray, out: float = 1.0) -> np.ndarray:
    """A closed line on the head as it is seen, N,2: what is on the far side goes to the silhouette at its height."""
    look = np.arctan2(np.sin(pose.look), np.cos(pose.look))
    return pose.on_head(np.clip(around + look, -np.pi / 2, np.pi / 2) - pose.look, below, out)[:, :2]


def head_shapes(person: Person, pose: Pose) -> list[Shape]:
    """Neck, head, hair on it and the face."""
    middle = pose.on_head(0.0, 0.0, 0.0)[:2]
    wide = np.hypot(HEAD[0] * np.cos(pose.look), HEAD[2] * np.sin(pose.look))
    neck = pose.seen(np.array((0.0, 0.2, 0.0)))[:2]
    skin = person.skin
    shapes = [Shape(stroke(np.stack([middle, neck]), np.array((0.05, 0.056))), tinted(skin, -0.12), SKIN)]
    for around in (-1.57, 1.57):
        ear = pose.on_head(around, 0.08, 1.04)
        if ear[2] > -0.03:
            shapes.append(Shape(ellipse(ear[:2], 0.012, 0.018, n=10), tinted(skin, -0.1), SKIN))
    shapes.append(Shape(ellipse(middle, wide, HEAD[1], n=24), skin, SKIN))
    if person.style != "bald":
        shapes += crown_shapes(person, pose, middle, wide)
    t = np.linspace(0, 2 * np.pi, 26, endpoint=False)
    line = {"short": -0.55, "curly": -0.45, "bald": -1.2}.get(person.style, -0.6)
    edge = face_edge(pose, 1.15 * np.sin(t), np.where(np.cos(t) > 0, 1.35, -line) * np.cos(t))
    if person.style != "bald":
        shapes.append(Shape(edge, skin, SKIN))
    if person.beard:
        jaw = face_edge(pose, 1.05 * np.sin(t), 0.92 + 0.5 * np.cos(t), 1.01)
        shapes.append(Shape(jaw, tinted(person.hair, 0.12), HAIR))
    return shapes + feature_shapes(person, pose)


def feature_shapes(person: Person, pose: Pose) -> list[Shape]:
    """Eyes, brows, nose and mouth, where they are seen."""
    shapes = []
    for around in (-0.42, 0.42):
        eye = pose.on_head(around, -0.05)
        if eye[2] > 0.012:
            narrow = min(1.0, eye[2] / 0.05)
            brow = pose.on_head(around + np.array((-0.2, 0.2)), -0.28)[:, :2]
            shapes += [
                Shape(ellipse(eye[:2], 0.0135 * narrow, 0.0085, n=12), np.array((250.0, 250, 248)), FEATURES),
                Shape(ellipse(eye[:2], 0.0075 * narrow, 0.0085, n=10), np.array((38.0, 28, 24)), FEATURES),
                Shape(stroke(brow, 0.006), tinted(person.hair, -0.2), FEATURES),
            ]
    nose = pose.on_head(0.0, np.array((-0.02, 0.34)), 1.06)
    if nose[1, 2] > -0.01:
        bump = pose.on_head(0.0, 0.3, 1.12)[:2]
        shapes.append(Shape(ellipse(bump, 0.008, 0.009, n=10), tinted(person.skin, -0.08), FEATURES))
        shapes.append(Shape(stroke(nose[:, :2], 0.005), tinted(person.skin, -0.16), FEATURES))
    mouth = pose.on_head(np.linspace(-0.3, 0.3, 5), 0.66 + 0.06 * np.cos(np.linspace(-1.5, 1.5, 5)), 1.0)
    if mouth[2, 2] > 0.005:
        shapes.append(Shape(stroke(mouth[mouth[:, 2] > 0][:, :2], 0.009), person.lips, FEATURES))
    return shapes


def crown_shapes(person: Person, pose: Pose, middle: np.ndarray, wide: float) -> list[Shape]:
    """The hair that grows on the head; the face is drawn over it."""
    tone, low = person.hair, {"short": 0.42, "curly": 0.55, "bun": 0.5, "ponytail": 0.5}.get(person.style, 1.0)
    full = 1.22 if person.style == "curly" else 1.1
    angle = np.linspace(np.pi - low, 2 * np.pi + low, 22)
    cap = np.stack([np.cos(angle) * wide * full, np.sin(angle) * HEAD[1] * full], 1) + middle
    shapes = [Shape(cap, tone, HAIR)]
    if person.style == "curly":
        for angle in np.linspace(np.pi, 2 * np.pi, 9):
            curl = middle + 1.1 * np.array((wide * np.cos(angle), HEAD[1] * np.sin(angle)))
            shapes.append(Shape(ellipse(curl, 0.026, 0.026, n=10), tone, HAIR))
    if person.style == "bun":
        knot = pose.on_head(np.pi, -0.75, 1.3)
        shapes.insert(0 if knot[2] < 0 else 1, Shape(ellipse(knot[:2], 0.03, 0.028, n=14), tinted(tone, -0.12), HAIR))
    shine = stroke(
        smooth(pose.on_head(np.array((-0.6, 0.0, 0.6)) - pose.look, -0.95, 1.02)[:, :2], 4, closed=False), 0.006
    )
    return [*shapes, Shape(shine, tinted(tone, 0.22), HAIR)]


def hair_shapes(person: Person, pose: Pose) -> list[Shape]:
    """The hair that hangs: behind the face, or over the back."""
    tone = tinted(person.hair, -0.06)
    if person.style == "ponytail":
        root, tip = pose.on_head(np.pi, -0.3, 1.1), pose.on_head(np.pi, 0.2, 1.5)
        end = np.array((tip[0], root[1] + 0.16))
        tail = smooth([root[:2], (tip[:2] - np.array((0, 0.02))), end], 5, closed=False)
        return [Shape(stroke(tail, np.linspace(0.045, 0.02, len(tail))), tone, HAIR)]
    length = {"long": 0.3, "bob": 0.185}.get(person.style)
    if length is None:
        return []
    back = pose.on_head(np.pi, 0.0, 0.35)[:2]  # hair hangs from the back of the head
    down = length + pose.drop
    half = 0.068 if person.style == "long" else 0.072
    edge = [
        (-half, 0.0),
        (-half - 0.006, 0.6),
        (-half + 0.006, 1.0),
        (0, 1.06),
        (half - 0.006, 1.0),
        (half + 0.006, 0.6),
        (half, 0.0),
    ]
    points = np.array([(back[0] + x, back[1] + t * (down - back[1])) for x, t in edge])
    strands = [
        stroke(np.array([(back[0] + x, back[1]), (back[0] + 1.05 * x, back[1] + 0.95 * (down - back[1]))]), 0.005)
        for x in (-0.03, 0.0, 0.03)
    ]
    return [Shape(points, tone, HAIR)] + [Shape(line, lines(person.hair, 0.25), HAIR) for line in strands]
