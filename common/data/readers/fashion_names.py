"""One parser for all spellings of DeepFashion's photo names, and what a name says.

A photo's key is its official path below img/ without ending: "WOMEN/Tees_Tanks/id_00007838/05_7_additional", that is
gender, category, item, colour and view. Other spellings join it without slashes:
    fasionWOMENTeesTanksid0000783805_7additional.jpg      Deformable GAN, PG2: a letter short, no underscores
    fashionWOMENTees_Tanksid0000783805_7additional.jpg    PATN, ADGAN, GFLA
"""

import re

WOMEN = (
    *("Blouses_Shirts", "Cardigans", "Denim", "Dresses", "Graphic_Tees", "Jackets_Coats", "Leggings", "Pants"),
    *("Rompers_Jumpsuits", "Shorts", "Skirts", "Sweaters", "Sweatshirts_Hoodies", "Tees_Tanks"),
)
MEN = (
    *("Denim", "Jackets_Vests", "Pants", "Shirts_Polos", "Shorts", "Suiting", "Sweaters", "Sweatshirts_Hoodies"),
    "Tees_Tanks",
)
FOLDERS = tuple(f"MEN/{name}" for name in MEN) + tuple(f"WOMEN/{name}" for name in WOMEN)  # sorted
SPELT = {folder.replace("_", "").replace("/", ""): folder for folder in FOLDERS}  # WOMENTeesTanks -> WOMEN/Tees_Tanks
PATTERN = re.compile(r"^(fasion|fashion)?(WOMEN|MEN)(.+?)id_?(\d{8})_?(\d{2})_(\d)_?([a-z]+)\.(?:jpg|png)$")


def parse(name: str) -> str | None:
    """The key of a name in any spelling, official paths with or without img/ before them; None if it is none."""
    found = PATTERN.match(_joined(name))
    if found is None:
        return None
    _, gender, category, item, colour, number, view = found.groups()
    folder = SPELT.get(gender + category.replace("_", ""))
    return folder and f"{folder}/id_{item}/{colour}_{number}_{view}"


def spelling(name: str) -> str:
    """ "fasion", "fashion", or "" for an official path."""
    found = PATTERN.match(_joined(name))
    return (found.group(1) or "") if found else ""


def _joined(name: str) -> str:
    below = name.replace("\\", "/").strip().rpartition("img/")[2]
    return below.replace("/", "")


def flat(key: str) -> str:
    """The name of a key as Deformable GAN's files spell it."""
    gender, category, item, photo = key.split("/")
    colour, number, view = photo.split("_")
    return f"fasion{gender}{category.replace('_', '')}{item.replace('_', '')}{colour}_{number}{view}.jpg"


def group(key: str) -> str:
    """Folder, item and colour: photos of one group show the same garment in the same colour on the same person."""
    return key[: key.rindex("/") + 3]


def item(key: str) -> str:
    """ "id_00007838", one of 7,982: never on both sides of an item-disjoint split."""
    return key.split("/")[2]


def folder(key: str) -> str:
    """Gender and category, one of FOLDERS."""
    return key[: key.index("/id_")]


def view(key: str) -> str:
    """front, side, back, full, flat (the garment alone) or additional."""
    return key.rpartition("_")[2]
