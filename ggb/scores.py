"""Published result images of other methods, scored as ours are: the same functions, whatever layout they come in."""

import json
import logging
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from common.data.poses import on_body
from common.errors import UserError
from common.files import sha256, write_whole
from common.metrics.evaluate import Numbers, extractor_for, judged, needs_classifier, summary
from common.metrics.extractors import LPIPS, Extractor, extract, load_lpips
from common.metrics.functions import SEED
from common.tasks.job import Job
from common.tasks.runs import append_result, result_line
from ggb.measures import MARGIN, Measures, compared, means_of, scores_of
from ggb.published_images import Result, batches, listed, loaded

log = logging.getLogger(__name__)

LPIPS_SIDE = 64  # pixels, at least
FEWEST = 4  # images: two subsets of two, for KID


def tell(job: Job) -> None:
    """Numbers of a folder of images: JSON at job.path, a line of results.jsonl as row ggb_t1_<method>, a table."""
    cfg, asked, method = job.cfg, job.settings, str(job.settings["method"])
    if not re.fullmatch(r"[\w.-]+", method):
        raise UserError(f"prepare.method={method} is to name a row: take letters, digits, - and _ alone.")
    results = listed(
        asked["layout"], *(asked[key] and Path(asked[key]).expanduser() for key in ("folder", "generated", "targets"))
    )
    log.info("scoring %d images, the first: %s", len(results), results[0].name)
    device = torch.device("cuda" if torch.cuda.is_available() and cfg["trainer"]["accelerator"] != "cpu" else "cpu")
    options = cfg["metrics"] | {"masked": asked["masked"]}
    numbers, protocol = scores(results, asked["layout"], options, device)
    line = result_line(
        cfg,
        f"ggb_t1_{method}",
        job.path,
        numbers,
        protocol,
        data_source="others' images",
        images_found=f"{len(results)} of {len(results)}",
        seed=0,
        published=None,
        preset=None,
    )
    write_whole(job.path, json.dumps(line, indent=1))
    append_result(Path(cfg["paths"]["runs"]), line)
    print(f"{line['row']}: {len(results):,} images of others, layout {asked['layout']}")
    print(summary(numbers, protocol, Measures.MEANINGS))


def scores(
    results: Sequence[Result], layout: str, options: dict[str, Any], device: torch.device
) -> tuple[Numbers, dict[str, Any]]:
    """Numbers under the names of `ggb.measures`, and what they depend on; each file is decoded once. options:
    conf/metrics, and `masked` of conf/prepare/scores.yaml."""
    height, width = loaded(results[0])["generated"].shape[1:]
    extractor, lpips, why = networks(len(results), min(height, width), options, device)
    table: dict[str, list[Tensor]] = defaultdict(list)
    kinds = ["generated", "target"]
    if "mask" not in results[0].files:
        why["mask_ssim, mask_is"] = f"layout {layout} has no masks"
    elif options["masked"]:
        kinds.append("body")

    def images() -> Iterator[Tensor]:
        """uint8, `kinds` in turn."""
        for read in batches(results, 64 if device.type == "cuda" else 16):
            batch = {role: image.to(device) for role, image in read.items()}
            generated, mask = batch["generated"], batch.get("mask")
            others = {"_of_source": batch["source"]} if "source" in batch else {}
            for name, values in compared(generated, batch["target"], others, mask, lpips).items():
                table[name].append(values.double().cpu())
            if mask is not None:
                batch["body"] = on_body(generated, mask)
            shown = torch.stack([batch[kind] for kind in kinds], 1).flatten(0, 1)
            yield F.pad(shown, (MARGIN, MARGIN), value=255) if layout == "patn" else shown

    seen = None if extractor is None else extract(extractor, images())
    if extractor is None:
        for _ in images():
            pass
    numbers = means_of({name: torch.cat(values).numpy() for name, values in table.items()}, [r.way for r in results])
    protocol = told_of(results, layout, lpips) | {"size": f"{width}x{height}", "not_measured": why}
    if seen is None:
        return numbers | dict.fromkeys(("fid", "kid", "is_mean")), protocol
    parts = {kind: seen[place :: len(kinds)] for place, kind in enumerate(kinds)}
    mixed = torch.from_numpy(np.random.RandomState(SEED).permutation(len(results)))
    as_read = options | {"pixels": "as published"}
    found, told = judged(parts["target"], parts["generated"], "the targets beside them", as_read, shuffle=False)
    others = {("is_of_targets", "is_of_targets_std"): parts["target"]}
    # names in their order put men's clothes into one split: the lists of pairs that methods are scored by are mixed
    others["is_mean_shuffled", "is_std_shuffled"] = parts["generated"][mixed]
    if "body" in parts:
        others["mask_is_mean", "mask_is_std"] = parts["body"]
    found |= scores_of(others, options["splits"], shown="withheld" not in told)
    return numbers | found, protocol | told


def networks(
    count: int, side: int, options: dict[str, Any], device: torch.device
) -> tuple[Extractor | None, LPIPS | None, dict[str, str]]:
    """The networks of IS, FID and KID, and of LPIPS, as far as their weights are on disk and images of this count and
    shorter side suit them; and why one is absent."""
    why = {}
    extractor, lpips = None, load_lpips()
    if lpips is None:
        why["lpips"] = "AlexNet's weights are not on disk"
    elif side < LPIPS_SIDE:
        lpips, why["lpips"] = None, f"images below {LPIPS_SIDE} px"
    if options["extractor"] is None:
        why["fid, kid, is"] = "metrics.extractor=null"
    elif needs_classifier(options):
        why["fid, kid, is"] = (
            "the 2015-12-05 Inception is not on disk (metrics.inception=FILE), a classifier is of ours"
        )
    elif count < max(options["splits"], FEWEST):
        why["fid, kid, is"] = f"{count} images are too few for {options['splits']} splits"
    else:
        extractor = extractor_for(options, None)
    for network in (extractor, lpips):
        if network is not None:
            network.to(device)
    return extractor, lpips, why


def told_of(results: Sequence[Result], layout: str, lpips: LPIPS | None) -> dict[str, Any]:
    """The part of the protocol that is not about FID and IS."""
    told: dict[str, Any] = {
        "layout": layout,
        "images": len(results),
        "names_sha256": sha256("".join(f"{result.name}\n" for result in results)),
        "order": "by name",
        "ssim": "ssim_pg2: uniform 7 x 7, sample covariance, L = 255, no border, mean over channels and pairs",
        "lpips": None if lpips is None else f"{lpips.name} {lpips.hash}",
    }
    if layout == "patn":
        told["shown_to_networks"] = f"with {MARGIN} white columns on each side, as by PATN's script; LPIPS without"
    if "mask" in results[0].files:
        told["mask"] = "mask_target, the body in y; PG2's own script takes mask, the body in x"
    return told
