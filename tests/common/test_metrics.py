"""Metrics by closed form, by invariance and against the libraries that defined them."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from skimage.metrics import structural_similarity
from torch import Tensor
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric

from common.classifier import Classifier, load_classifier
from common.errors import UserError
from common.metrics.extractors import (
    ClassifierExtractor,
    InceptionExtractor,
    extract,
    inception,
    joined,
    load_lpips,
    resize_as_tensorflow1,
)
from common.metrics.functions import (
    STANDARD,
    Features,
    FeatureStatistics,
    frechet_distance,
    inception_score,
    kernel_distance,
    l1,
    metric_key,
    psnr,
    r_precision,
    require_enough,
    rmse,
    score,
    ssim,
    to_uint8,
    usual_subset,
)
from common.weights import KNOWN_FILES, find_weights
from tests.agree import agree
from tests.peers.fidelity import NAMES, noise, rng, write_inception
from tests.worlds.settings import settings

# ---- the door


def test_photos_pass_the_door_unchanged() -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(levels.float() / 127.5 - 1), levels)
    floored = to_uint8(levels.float() / 127.5 - 1, rounding="floor")
    assert (levels.int() - floored.int()).sum() == 63  # why "round" is the default
    assert to_uint8(torch.tensor([-1.0, 1.0, 1.0005], dtype=torch.bfloat16)).tolist() == [0, 255, 255]


@pytest.mark.parametrize(
    "bad",
    [torch.tensor([0.0, 1.2]), torch.tensor([-1.01]), torch.tensor([float("nan")]), torch.zeros(2, dtype=torch.uint8)],
)
def test_what_is_no_image_in_range_is_a_bug(bad: Tensor) -> None:
    with pytest.raises(ValueError, match="-1, 1"):
        to_uint8(bad)


# ---- Inception Score


def one_hot(n: int, k: int) -> Tensor:
    return torch.eye(k)[torch.arange(n) % k].mul(1000.0)


def test_inception_score_by_closed_form() -> None:
    assert inception_score(one_hot(30_000, 50), seed=None) == pytest.approx((50, 0), abs=1e-3)
    assert inception_score(one_hot(30_000, 50))[0] == pytest.approx(49.6, abs=0.1)  # a shuffled split is uneven
    assert inception_score(torch.ones(100, 7)) == pytest.approx((1, 0))
    probabilities = torch.tensor([[0.9, 0.1], [0.1, 0.9]])  # KL to (.5, .5): ln 2 - H(.9)
    by_hand = np.exp(np.log(2) + 0.9 * np.log(0.9) + 0.1 * np.log(0.1))
    assert inception_score(probabilities.log(), splits=1)[0] == pytest.approx(by_hand)


def test_inception_score_of_fewer_images_than_splits_is_refused() -> None:
    with pytest.raises(UserError, match="10 splits needs 10 images"):
        inception_score(torch.ones(9, 3))


# ---- Frechet distance


def test_frechet_distance_by_closed_form() -> None:
    zero, eye = torch.zeros(5), torch.eye(5)
    assert frechet_distance(zero, eye, zero + 2, eye) == pytest.approx(20)
    assert frechet_distance(zero, eye, zero, 4 * eye) == pytest.approx(5)
    singular = torch.diag(torch.tensor([1.0, 1, 1, 0, 0]))  # sqrt(C1 C2) has trace 6 with 4 I
    assert frechet_distance(zero, singular, zero, 4 * eye) == pytest.approx(3 + 20 - 2 * 6)
    assert frechet_distance(zero, 4 * eye, zero, singular) == pytest.approx(3 + 20 - 2 * 6)


@pytest.mark.parametrize("n", [40, 400])
def test_frechet_distance_to_itself_is_zero_also_below_full_rank(n: int) -> None:
    x = torch.rand(n, 128, generator=rng())
    s = FeatureStatistics(width=128).update(x)
    assert frechet_distance(s.mean, s.cov, s.mean, s.cov) == pytest.approx(0, abs=1e-3)


def test_statistics_stream_and_keep_what_float32_would_lose() -> None:
    x = torch.randn(3000, 4, generator=rng()).double() + 1000  # a deviation of 1 on a mean of 1,000
    whole, stream = FeatureStatistics(width=4).update(x), FeatureStatistics(width=4)
    for part in x.split(7):
        stream.update(part)
    for s in (whole, stream):
        assert s.mean.numpy() == pytest.approx(x.mean(0).numpy(), rel=1e-12)
        assert s.cov.numpy() == pytest.approx(np.cov(x.numpy(), rowvar=False), abs=1e-6)
    single = x.float()
    lost = (single.T @ single - 3000 * torch.outer(single.mean(0), single.mean(0))) / 2999
    assert (lost.double() - whole.cov).abs().max() > 1e-2
    with pytest.raises(ValueError, match="two images"):
        _ = FeatureStatistics(width=4).update(x[:1]).cov


# ---- KID


def test_kernel_distance_is_unbiased() -> None:
    x, y = (torch.randn(2000, 8, generator=rng(s)) for s in (1, 2))
    mean, std = kernel_distance(x, y, subset=100)
    assert abs(mean) < 3 * std / 10  # 100 subsets; with the diagonals kept it would be 0.06
    assert kernel_distance(x, y + 1, subset=100)[0] > 1


def test_kernel_distance_by_hand() -> None:
    x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[2.0], [0.0]])  # k(x, x') = 1, k(y, y') = 1, k(x, y) = 1 1 27 1
    assert kernel_distance(x, y, subset=2, subsets=3) == pytest.approx((2 - 2 * 30 / 4, 0))


def test_subsets_follow_the_number_of_images() -> None:
    assert [usual_subset(n, 30_000) for n in (2933, 1155, 999, 40)] == [1000, 500, 499, 20]
    with pytest.raises(UserError, match="choose a smaller subset"):
        kernel_distance(torch.zeros(30, 2), torch.zeros(20, 2), subset=21)


# ---- R-precision


def test_r_precision_of_perfect_random_and_collapsed_codes() -> None:
    labels = np.arange(600) % 10
    texts, images = (torch.randn(600, 16, generator=rng(s)) for s in (1, 2))
    assert r_precision(3 * texts, texts, labels, texts, labels, draws=600)[0] == 1
    mean, std = r_precision(images, texts, labels, texts, labels, draws=12_000)
    assert mean == pytest.approx(0.01, abs=0.004)
    assert 0 < std < 0.01
    same = torch.ones(600, 16)  # ties are shared: arg-max alone would call this perfect
    assert r_precision(same, same, labels, same, labels, draws=300)[0] == pytest.approx(0.01)


def test_r_precision_takes_no_distractor_of_the_own_class() -> None:
    labels = np.repeat(np.arange(3), 60)
    codes = torch.eye(3)[labels]  # one code for a class: an own-class distractor would tie
    assert r_precision(codes, codes, labels, codes, labels, draws=100)[0] == 1
    with pytest.raises(UserError, match="among 99 of other classes, here are 90"):
        r_precision(codes[:150], codes[:150], labels[:150], codes[:150], labels[:150])


# ---- pairs of images


@pytest.mark.parametrize("window", ["gaussian", "uniform"])
def test_ssim_equals_scikit_image(window: str) -> None:
    x = torch.rand(2, 3, 40, 56, generator=rng(), dtype=torch.float64)
    y = (0.6 * x + 0.4 * torch.rand(x.shape, generator=rng(1), dtype=torch.float64)).clamp(0, 1)
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False} if window == "gaussian" else {}
    theirs = [
        structural_similarity(a.numpy(), b.numpy(), channel_axis=0, data_range=1.0, **options)
        for a, b in zip(x, y, strict=True)
    ]
    assert ssim(x, y, window=window).tolist() == pytest.approx(theirs, abs=1e-9)  # type: ignore[arg-type]


def test_ssim_of_known_pictures() -> None:
    """Values of scikit-image 0.26 on uint8 with a range of 255."""
    i, j, c = torch.meshgrid(torch.arange(256), torch.arange(256), torch.arange(3), indexing="ij")
    a = (((3 * i + 5 * j + 40 * c) // 8) % 256).to(torch.uint8).permute(2, 0, 1)[None]
    rolled = a.roll(7, 3)
    assert ssim(a, rolled, window="uniform").item() == pytest.approx(0.9672025, abs=1e-5)
    assert ssim(a, rolled).item() == pytest.approx(0.9694880, abs=1e-5)
    assert ssim(a, 255 - a).item() == pytest.approx(0.6889597, abs=1e-5)
    flat = torch.full_like(a, 100)
    assert ssim(flat, flat + 50).item() == pytest.approx(0.9230923, abs=1e-5)
    assert ssim(a, a).item() == pytest.approx(1)


def test_weights_pick_the_pixels_that_count() -> None:
    x, weight = noise(2, 32, 0), torch.zeros(2, 1, 32, 32)
    weight[..., :16] = 1
    y = x.clone()
    y[..., 16:] = 0
    assert l1(x, y, weight).tolist() == [0, 0]
    assert l1(x, y)[0].item() == pytest.approx((x[0, ..., 16:].double() / 255).sum().item() / (3 * 32 * 32))
    assert rmse(x, y, 1 - weight)[1].item() == pytest.approx(
        (x[1, ..., 16:].double() / 255).square().mean().sqrt().item()
    )
    assert psnr(torch.zeros(1, 3, 8, 8), torch.full((1, 3, 8, 8), 0.1)).item() == pytest.approx(20, abs=1e-5)
    weight[..., 10:16] = 0  # a window of 11 reaches 5 pixels
    assert ssim(x, y, weight=weight).tolist() == pytest.approx([1, 1])
    assert ssim(x, y)[0] < 0.9
    with pytest.raises(ValueError, match="0, 1"):
        ssim(torch.zeros(1, 3, 16, 16), torch.full((1, 3, 16, 16), -0.5))


# ---- labels and refusals


def seen(n: int, shift: float, extractor: str, weights: str = "00000000") -> Features:
    x = torch.randn(n, 6, generator=rng(n)) + shift
    return Features(x, 3 * x, extractor, weights, "8 x 8")


def test_scores_name_what_made_them() -> None:
    real, fake = seen(2100, 0, "classifier-cub"), seen(2050, 1, "classifier-cub")
    numbers, protocol = score(real, fake, reference="cub test", kid_subsets=10)
    names = ("fid", "kid", "kid_std", "is_mean", "is_std")
    assert list(numbers) == [f"{name}@classifier-cub" for name in names]
    assert numbers["fid@classifier-cub"] == pytest.approx(6, abs=0.5)
    assert protocol.kid_subset == 1000
    assert not protocol.few
    assert {"extractor": "classifier-cub", "weights": "00000000", "n_real": 2100}.items() <= asdict(protocol).items()
    assert [metric_key(name, STANDARD) for name in names] == list(names)
    with pytest.raises(ValueError, match="beside"):
        score(real, seen(2050, 1, "classifier-cub", "11111111"), reference="cub test")


def test_few_images_are_refused_or_marked() -> None:
    with pytest.raises(UserError, match="2,048 images on either side, here are 2,933 real and 64 generated"):
        require_enough(2933, 64, allow_few=False)
    require_enough(2048, 2048, allow_few=False)
    real, fake = seen(60, 0, "classifier-cub"), seen(64, 1, "classifier-cub")
    with pytest.raises(UserError):
        score(real, fake, reference="toy")
    numbers, protocol = score(real, fake, reference="toy", allow_few=True)
    assert protocol.few
    assert protocol.kid_subset == 30
    assert all(np.isfinite(list(numbers.values())))


# ---- extractors


@pytest.fixture(scope="module")
def inception_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_inception(tmp_path_factory.mktemp("hub") / KNOWN_FILES["inception"].name)


@pytest.fixture(scope="module")
def untrained(inception_file: Path) -> InceptionExtractor:
    return InceptionExtractor(inception_file)


@pytest.mark.usefixtures("float64")
def test_inception_is_torch_fidelitys(inception_file: Path) -> None:
    """At the network's own size, for the resize has its own test; theirs rounds what it says to float32."""
    ours, theirs = InceptionExtractor(inception_file), inception(torch.load(inception_file), inception_file)
    theirs.feature_extractor_internal_dtype = torch.float64
    images = noise(2, 299, 1)
    found = extract(ours, images.split(1), batch_size=1)
    assert found.features.std() > 0.01
    for mine, rounded in zip((found.features, found.logits), theirs(images), strict=True):
        torch.testing.assert_close(mine, rounded.double(), rtol=2**-23, atol=1e-10)
    agree(ours(images)["features"], found.features)  # of batches of 1


@pytest.mark.usefixtures("float64")
def test_numbers_equal_torch_fidelity() -> None:
    real, fake = (torch.randn(200, 16, generator=rng(i)) + 0.1 * i for i in (1, 2))
    ours, _ = score(
        *(Features(x, x, "own", "0", "") for x in (real, fake)),
        **{"reference": "noise", "splits": 3, "kid_subset": 40, "kid_subsets": 10, "allow_few": True},
    )
    statistics = [fid_features_to_statistics(x) for x in (fake, real)]
    theirs = fid_statistics_to_metric(*statistics, verbose=False) | isc_features_to_metric(fake, splits=3)
    theirs |= kid_features_to_metric(fake, real, kid_subsets=10, kid_subset_size=40, verbose=False)
    assert theirs["frechet_inception_distance"] > 0.1  # not an equality of nothings
    assert theirs["inception_score_mean"] > 1.01
    agree(ours, {f"{name}@own": theirs[key] for name, key in NAMES.items()})


def test_inception_is_exact_in_a_mixed_precision_run(untrained: InceptionExtractor) -> None:
    images = noise(1, 40, 1, block=20)
    plain = untrained(images)["features"]
    assert plain.dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(untrained(images)["features"], plain)


@pytest.mark.parametrize("side", [32, 64, 299, 350])
def test_resize_is_that_of_tensorflow_1(side: int) -> None:
    """Its places in the image are rounded to float32, to half of side 2^-23, and pixels may be 255 apart."""
    x = noise(2, side, 3).float()[..., : side - 5]
    theirs = interpolate_bilinear_2d_like_tensorflow1x(x, size=(299, 299), align_corners=False)
    assert (resize_as_tensorflow1(x, 299) - theirs).abs().max() < 2 * 255 * side * 2**-23


def test_inception_is_named_by_its_weights_and_left_alone(untrained: InceptionExtractor, inception_file: Path) -> None:
    assert untrained.name == f"inception-{untrained.hash}"  # not the standard file, so never plain FID
    assert not any(p.requires_grad for p in untrained.train().parameters())
    assert not untrained.net.training
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    InceptionExtractor(inception_file)
    assert torch.equal(torch.rand(1), expected)  # building it in mid-run draws nothing
    with pytest.raises(ValueError, match="uint8"):
        untrained(torch.zeros(1, 3, 8, 8))


def test_weights_are_found_by_path_or_in_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert find_weights("inception") is None
    assert load_lpips() is None
    with pytest.raises(UserError, match="no weights file at"):
        find_weights("inception", tmp_path / "typo.pth")
    file = tmp_path / "hub/checkpoints" / KNOWN_FILES["inception"].names[1]
    file.parent.mkdir(parents=True)
    file.touch()
    assert find_weights("inception") == file


@pytest.mark.parametrize("content", [b"<html>404</html>", {"conv1.weight": torch.zeros(3)}, {"epoch": 3}])
def test_other_files_are_no_inception(content: bytes | dict, tmp_path: Path) -> None:
    path = tmp_path / KNOWN_FILES["inception"].name
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(UserError, match=KNOWN_FILES["inception"].name):
        InceptionExtractor(path)


def test_half_a_download_is_no_inception(inception_file: Path, tmp_path: Path) -> None:
    path = tmp_path / KNOWN_FILES["inception"].name
    path.write_bytes(inception_file.read_bytes()[:100_000])
    with pytest.raises(UserError, match=KNOWN_FILES["inception"].name):
        InceptionExtractor(path)


def test_a_pickle_that_runs_code_is_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "trapped",))

    torch.save({"fc.weight": Trap()}, tmp_path / "trap.pth")
    for reader in (InceptionExtractor, load_lpips):
        with pytest.raises(UserError):
            reader(tmp_path / "trap.pth")
    assert not (tmp_path / "trapped").exists()


@pytest.mark.usefixtures("float64")
def test_a_classifier_stands_in_under_its_own_name(tmp_path: Path) -> None:
    model = Classifier(**settings("classifier", arch="alexnet_tiny", image_size=64, classes=5))
    model.class_names, model.data_name = list("abcde"), "cub"
    torch.save(model.export(), tmp_path / "classifier.pt")
    extractor = ClassifierExtractor(load_classifier(tmp_path / "classifier.pt"))
    images = noise(6, 48, 4)
    found = extract(extractor, images.split(4), batch_size=3)
    assert (found.extractor, len(found.weights)) == ("classifier-cub", 8)
    assert found.features.shape == (6, 128)
    assert found.logits.shape == (6, 5)
    agree(found.logits, extractor.net(images / 127.5 - 1))


def test_small_batches_are_joined() -> None:
    parts = list(joined([torch.full((n,), n) for n in (2, 3, 1, 8, 1)], 4))
    assert [len(part) for part in parts] == [5, 9, 1]
    assert torch.cat(parts).tolist() == [2, 2, 3, 3, 3, 1, *[8] * 8, 1]


def test_lpips_looks_through_the_backbone_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    torch.manual_seed(0)
    net = torchvision.models.AlexNet()
    state = {k: v for k, v in net.state_dict().items() if k.startswith("features.")}
    file = tmp_path / "hub/checkpoints" / KNOWN_FILES["alexnet"].name
    file.parent.mkdir(parents=True)
    torch.save(state, file)
    lpips = load_lpips()
    assert lpips is not None
    x = noise(2, 64, 5)
    near, far = (x // 8 * 8), noise(2, 64, 6)
    assert lpips(x, x).tolist() == [0, 0]
    assert (0 < lpips(x, near)).all()
    assert (lpips(x, near) < lpips(x, far)).all()
    torch.save({k: v.flip(0) for k, v in state.items()}, tmp_path / "other.pth")
    other = load_lpips(tmp_path / "other.pth")
    assert other is not None
    assert other.hash != lpips.hash
    assert not torch.allclose(other(x, far), lpips(x, far), rtol=1e-3)  # the file's weights are the ones in use
    with pytest.raises(UserError, match="not torchvision's AlexNet"):
        load_lpips_of(tmp_path / "empty.pth")


def load_lpips_of(path: Path) -> None:
    torch.save({}, path)
    load_lpips(path)
