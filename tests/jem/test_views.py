"""Masks become instances, instances become views (numbers 19 to 21)."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.data.readers.masks import BLUE, read_segmim, segmim_foreground
from jem.views import VIEWS, by_area, components, overlap, palette, render, stacked
from tests.worlds.layouts import refusal

GREEN = (30, 140, 40)


def disc(radius: int, height: int = 320, width: int = 340) -> np.ndarray:
    return np.hypot(*np.mgrid[-height // 2 : height // 2, -width // 2 : width // 2]) <= radius


@pytest.mark.parametrize(("quality", "bound"), [(95, 0.95), (75, 0.9)])
@pytest.mark.parametrize("radius", [100, 140])
def test_number_19_blue_petals_are_flower(tmp_path: Path, quality: int, bound: float, radius: int) -> None:
    flower = disc(radius)
    photo = np.where(flower[..., None], BLUE, GREEN).astype(np.uint8)
    cutout = np.full_like(photo, BLUE)
    for name, pixels in (("photo.jpg", photo), ("segmim.jpg", cutout)):
        Image.fromarray(pixels).save(tmp_path / name, quality=quality)
    seen = np.asarray(Image.open(tmp_path / "photo.jpg"))
    found = read_segmim(tmp_path / "segmim.jpg", seen)
    assert overlap(found, flower) >= bound
    assert components(found).max() == 1
    blue = np.abs(np.asarray(Image.open(tmp_path / "segmim.jpg")).astype(int) - BLUE).max(2) <= 60
    assert overlap(~blue, flower) == 0  # what a plain threshold gives


def test_number_19_an_all_blue_segmim_is_a_bad_mask() -> None:
    photo = np.full((80, 90, 3), GREEN, np.uint8)
    assert segmim_foreground(np.full_like(photo, BLUE), photo) is None


def background(cutout: np.ndarray, photo: np.ndarray) -> list[bool]:
    """Whether the middle of each of five stripes, 20 wide, is background."""
    mask = segmim_foreground(cutout, photo)
    assert mask is not None
    return [not mask[20, 20 * k + 10] for k in range(5)]


def test_number_19_distances_are_those_of_section_4_3() -> None:
    """Seeds are within 10 of blue, what hangs together with them within 60, both over 20 away from the photo."""
    photo, cutout = (np.full((40, 100, 3), GREEN, np.uint8) for _ in range(2))
    blue = np.array(BLUE)
    for k, away in enumerate((0, 60, None, 10, None)):  # the second touches the first
        if away is not None:
            cutout[:, 20 * k : 20 * k + 20] = blue - (0, 0, away)
    assert background(cutout, photo) == [True, True, False, True, False]
    cutout[:, 20:40] = blue - (0, 0, 61)
    cutout[:, 60:80] = blue - (0, 0, 11)  # near enough, but with no seed beside it
    assert background(cutout, photo) == [True, False, False, False, False]
    cutout[:, 20:] = GREEN
    for k, apart in enumerate((21, 20)):
        photo[:, 40 * k : 40 * k + 20] = blue - (0, 0, apart)
        cutout[:, 40 * k : 40 * k + 20] = blue
    assert background(cutout, photo) == [True, False, False, False, False]


def squares() -> tuple[np.ndarray, np.ndarray]:
    """A photo of one grey, and a mask with two parts: 20x20 that touch a corner, and 30x10 with a speck beside it."""
    photo, mask = np.full((100, 100, 3), 100, np.uint8), np.zeros((100, 100), np.uint8)
    mask[:20, :20] = mask[60:90, 70:80] = mask[50:53, 10:13] = 1
    return photo, mask


def test_number_20_a_white_view_is_white_but_for_the_flower() -> None:
    rng = np.random.default_rng(0)
    segmim, mask = rng.integers(0, 255, (50, 60, 3), np.uint8), rng.random((50, 60)) < 0.4
    for view in ("foreground", "foreground_pred"):
        other = np.zeros_like(mask, np.uint8)
        masks = (other, mask) if view == "foreground" else (mask.astype(np.uint8), other)
        shown = render(view, segmim, *masks)
        assert (shown[~mask] == 255).all()
        assert np.array_equal(shown[mask], segmim[mask])


def test_number_21_overlay_is_half_the_colour() -> None:
    photo, mask = squares()
    none = np.zeros_like(mask)
    assert np.array_equal(render("overlay", photo, none, none), photo)
    shown = render("overlay", photo, components(mask), mask)
    assert shown[10, 10, 0] in (177, 178)  # red, the largest
    assert shown[10, 10, 1:].tolist() == [50, 50]
    assert shown[0, 0].tolist() == shown[19, 10].tolist() == shown[10, 18].tolist() == [255, 0, 0]  # two pixels wide
    assert shown[10, 17].tolist() == shown[10, 10].tolist()
    assert shown[mask == 0].tolist() == photo[mask == 0].tolist()
    assert shown[51, 11].tolist() == [100, 100, 100]  # a speck is no instance


def test_instances_are_the_parts_by_area() -> None:
    _, mask = squares()
    found = components(mask)
    assert [(found == k).sum() for k in range(4)] == [10_000 - 700, 400, 300, 0]
    mask[20, 20] = 1  # corner to corner: eight neighbours
    mask[21:71, 21:69] = 1
    assert components(mask).max() == 2
    assert components(np.zeros_like(mask)).max() == 0
    assert components(np.ones_like(mask)).min() == 1


def test_colours_turn_by_the_golden_ratio() -> None:
    assert palette(3)[:2].tolist() == [[0, 0, 0], [255, 0, 0]]
    assert len(np.unique(palette(10), axis=0)) == 11
    photo, mask = squares()
    shown = render("mask", photo, components(mask), mask)
    assert shown[70, 75].tolist() == palette(2)[2].tolist() == [0, 74, 255]  # hue 0.618
    assert (shown[components(mask) == 0] == 0).all()
    assert np.array_equal(render("raw", photo, components(mask), mask), photo)


def test_of_overlapping_masks_the_smaller_is_on_top() -> None:
    large, small = disc(60, 160, 160), disc(20, 160, 160)
    for masks in ([large, small], [small, large], [small, np.zeros_like(large), large]):
        found = stacked(masks)
        assert np.array_equal(found, large.astype(int) + small)
    ring = by_area(np.array([[7, 7, 3], [0, 3, 3], [9, 0, 0]]))
    assert ring.tolist() == [[2, 2, 1], [0, 1, 1], [3, 0, 0]]


def test_views_of_a_mirrored_photo_are_mirrored() -> None:
    rng = np.random.default_rng(1)
    photo, (_, mask) = rng.integers(0, 255, (100, 100, 3), np.uint8), squares()
    for view in VIEWS:
        plain = render(view, photo, components(mask), mask)
        mirrored = render(view, photo[:, ::-1], components(mask[:, ::-1]), mask[:, ::-1])
        assert np.array_equal(mirrored, plain[:, ::-1]), view


def test_an_unknown_view_is_refused() -> None:
    photo, mask = squares()
    message = refusal(lambda: render("cutout", photo, mask, mask))
    assert "prepare.view=cutout" in message
    assert "overlay" in message
