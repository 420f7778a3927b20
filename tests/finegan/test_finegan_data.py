"""FineGAN's crops and split by the numbers of its ancestors' files; FID's second set of weights."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from common.data.geometry import fitted, square_about
from common.data.readers.cub import TEST_CLASSES
from common.metrics.extractors import TorchvisionInception
from common.metrics.functions import inception_score
from common.weights import find_weights
from tests.worlds.layouts import refusal


@pytest.mark.parametrize(
    ("box", "photo", "crop", "sizes"),
    [
        ((60, 27, 325, 304), (500, 335), (0, 0, 465, 335), ((421, 304), (492, 355))),
        ((139, 30, 153, 264), (500, 336), (17, 0, 413, 336), ((358, 304), (418, 355))),
    ],
)
def test_crops_of_cubs_first_two_images(box: tuple, photo: tuple, crop: tuple, sizes: tuple) -> None:
    cut = square_about(np.array(box, np.float32), *photo)
    assert cut == crop
    assert tuple(fitted(cut[2] - cut[0], cut[3] - cut[1], side) for side in (304, 355)) == sizes


LISTS = Path(os.environ.get("DATA_ROOT", "data")) / "CUB_200_2011"


@pytest.mark.skipif(not (LISTS / "train_test_split.txt").is_file(), reason="CUB's lists are not under DATA_ROOT")
def test_the_split_is_by_class_and_not_cubs_own() -> None:
    labels, own = (
        np.loadtxt(LISTS / name, dtype=int)[:, 1] for name in ("image_class_labels.txt", "train_test_split.txt")
    )
    test = np.isin(labels, sorted(TEST_CLASSES))
    assert (int((~test).sum()), int(test.sum())) == (8855, 2933)
    assert [int((part & (own == bit)).sum()) for part in (~test, test) for bit in (1, 0)] == [4495, 4360, 1499, 1434]


def test_inception_score_of_perfect_predictions() -> None:
    logits = torch.full((30_000, 50), -1e4)
    logits[torch.arange(30_000), torch.arange(30_000) % 50] = 0
    assert inception_score(logits, seed=None)[0] == pytest.approx(50, abs=1e-3)
    assert inception_score(logits)[0] == pytest.approx(49.6, abs=0.1)
    assert inception_score(torch.zeros(1000, 50))[0] == pytest.approx(1)


def test_fid_through_torchvisions_weights_keeps_the_quirk_of_early_code(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = torchvision.models.inception_v3(weights=None, num_classes=1000, aux_logits=False, init_weights=False)
    torch.save(net.state_dict(), tmp_path / "inception.pth")
    extractor = TorchvisionInception(tmp_path / "inception.pth")
    images = torch.randint(0, 256, (1, 3, 40, 40), dtype=torch.uint8)
    found = extractor(images)

    photo = Image.fromarray(images[0].permute(1, 2, 0).numpy()).resize((299, 299), Image.Resampling.BILINEAR)
    v = torch.from_numpy(np.array(photo)).permute(2, 0, 1)[None].float() / 255  # not normalised, and yet:
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        logits = net.eval()(v * std / 0.5 + (mean - 0.5) / 0.5)
    torch.testing.assert_close(found["logits"], logits, atol=1e-4, rtol=1e-4)
    assert found["features"].shape == (1, 2048)
    assert extractor.name == "inception-torchvision"


def test_the_two_sets_of_weights_are_not_mixed(tmp_path: Path) -> None:
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "resnet.pth")
    assert "Inception" in refusal(lambda: TorchvisionInception(tmp_path / "resnet.pth"))
    assert find_weights("inception") is None or "2015-12-05" in find_weights("inception").name  # type: ignore[union-attr]
