"""torch-fidelity on random Inception weights and noise: the reference of FID, KID and IS for tests and benchmark."""

import io
from pathlib import Path

import torch
import torch_fidelity
from torch import Tensor, nn
from torch.utils.data import Dataset
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

NAMES = {  # ours -> torch-fidelity's
    "fid": "frechet_inception_distance",
    "kid": "kernel_inception_distance_mean",
    "kid_std": "kernel_inception_distance_std",
    "is_mean": "inception_score_mean",
    "is_std": "inception_score_std",
}


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(n: int, side: int, seed: int, low: int = 0, block: int = 1) -> Tensor:
    """n,3,side,side uint8 in [low, 255], in squares of `block` pixels."""
    coarse = torch.randint(low, 256, (n, 3, side // block, side // block), dtype=torch.uint8, generator=rng(seed))
    return coarse.repeat_interleave(block, 2).repeat_interleave(block, 3)


class Untrained(FeatureExtractorInceptionV3):
    """The network before any weights are read."""

    def load_state_dict(self, *args: object, **kwargs: object) -> None:
        pass


def write_inception(path: Path) -> Path:
    """Random weights in the layout of the standard file: a plain dict, without batch counters."""
    nothing = io.BytesIO()
    torch.save({}, nothing)
    nothing.seek(0)
    torch.manual_seed(0)
    net = Untrained("inception-v3-compat", ["2048"], feature_extractor_weights_path=nothing)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            module.momentum = 1.0
    with torch.no_grad():
        net.train()(noise(6, 60, 0, block=12))  # statistics of images: without them all features are alike
    net.fc.weight.mul_(20)  # logits apart enough for an Inception Score
    torch.save({k: v for k, v in net.state_dict().items() if "num_batches" not in k}, path)
    return path


class Images(Dataset[Tensor]):
    """A tensor as the dataset that torch-fidelity takes."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[index]


def reference(
    real: Tensor, fake: Tensor, weights: Path, splits: int, subset: int, subsets: int, cuda: bool | None = None
) -> dict[str, float]:
    """fid, kid, kid_std, is_mean, is_std by torch-fidelity."""
    theirs = torch_fidelity.calculate_metrics(
        input1=Images(fake),
        input2=Images(real),
        isc=True,
        fid=True,
        kid=True,
        isc_splits=splits,
        kid_subset_size=subset,
        kid_subsets=subsets,
        feature_extractor_weights_path=str(weights),
        cuda=torch.cuda.is_available() if cuda is None else cuda,
        cache=False,
        save_cpu_ram=True,
        verbose=False,
    )
    return {ours: theirs[name] for ours, name in NAMES.items()}
