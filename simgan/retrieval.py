"""How good the sentence vectors of `vse` are: which images and sentences find each other."""

import torch
import torch.nn.functional as F
from torch import Tensor


def retrieval(v: Tensor, u: Tensor, owner: Tensor, labels: Tensor, chunk: int = 512) -> dict[str, float]:
    """How well images and sentences find each other (Kiros et al.), and images and classes (Reed et al. 2016).

    v: N,D and u: M,D of length 1; owner: M, the image of each sentence; labels: N, the class of each image.
    image_* and text_* are of queries by image and by sentence: R@1, R@5, R@10 in [0, 1] and the median rank (an image
    finds the best of its own sentences; ties count against us). class_top1: images nearest to the mean sentence of
    their class. class_ap50: share of a class in the 50 images nearest to it. times_chance: R@1 over 1/N, mean of both.
    """
    n = len(v)
    image_ranks, text_ranks = [], []
    for start in range(0, n, chunk):
        s = v[start : start + chunk] @ u.T
        own = owner == torch.arange(start, start + len(s), device=v.device)[:, None]
        best = s.masked_fill(~own, -2).amax(1, keepdim=True)
        image_ranks.append(((s >= best) & ~own).sum(1) + 1)
    for start in range(0, len(u), chunk):
        s, mine = u[start : start + chunk] @ v.T, owner[start : start + chunk, None]
        text_ranks.append((s >= s.gather(1, mine)).sum(1))  # the own image is one of them
    result: dict[str, float] = {}
    for name, ranks in (("image", torch.cat(image_ranks)), ("text", torch.cat(text_ranks))):
        result |= {f"{name}_r{k}": (ranks <= k).float().mean().item() for k in (1, 5, 10)}
        result[f"{name}_median_rank"] = ranks.double().quantile(0.5).item()
    present, label = labels.unique(return_inverse=True)
    means = torch.stack([u[label[owner] == k].mean(0) for k in range(len(present))])
    s = v @ F.normalize(means, dim=1).T
    result["class_top1"] = (s.argmax(1) == label).float().mean().item()
    nearest = s.topk(min(50, n), dim=0).indices
    result["class_ap50"] = (label[nearest] == torch.arange(len(present), device=v.device)).float().mean().item()
    result["times_chance"] = (result["image_r1"] + result["text_r1"]) / 2 * n
    return result
