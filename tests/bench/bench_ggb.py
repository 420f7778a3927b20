"""Speed of GGB's training step, and of its pose maps, against the same as public code for pose transfer writes it."""

import gc
from pathlib import Path
from statistics import median
from typing import Any

import torch
from pytorch_lightning.profilers import SimpleProfiler
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from common.data.module import ImageData, Reader
from common.data.poses import pose_maps
from common.data.procedural.write_deepfashion import write_people
from common.data.readers.deepfashion import DeepFashion
from common.losses import weighted
from ggb.model import GGB
from tests.bench.bench_step import ALL, ALL_CPU, CHANNELS_LAST, FIRST, NCHW, Case, Turns, alone, fit
from tests.bench.timing import Row, alternate
from tests.peers.ggb_step import PublicStep, joint_maps
from tests.worlds.settings import settings
from tests.worlds.tiny_pairs import LOSS

TINY: dict[str, Any] = {"ngf": 4, "ndf": 4}
CASES = {
    "quick": [Case(64, 4, (FIRST,), rounds=1, alone=1, widths=TINY)],
    "cpu": [
        Case(64, 8, (FIRST, CHANNELS_LAST, ALL_CPU, NCHW), rounds=3, aim=2.0, alone=4),
        Case(256, 8, (FIRST, NCHW), rounds=1, aim=2.0),
    ],
    "cuda": [
        Case(256, 8, (FIRST, CHANNELS_LAST, ALL_CPU, ALL), rounds=5, turn=10, warm=15, aim=3.0, alone=60),
        Case(256, 64, (FIRST, ALL), rounds=3, turn=5, warm=10, aim=3.0, alone=30),
    ],
}


def ggb(folder: Path, *, device: torch.device, quick: bool) -> list[Row]:
    """The step of `ggb.model`, in its Trainer and fed by the store with drawn people, at the paper's widths and levels;
    turn by turn, on the same batches and from the same weights, with the same updates in the habits of public code for
    pose transfer (the paper has none): G draws for the critics and again for each of its own updates, as in PG2; the
    critics are not frozen meanwhile and losses are read at once, as in Pose-Transfer; pose maps are drawn joint by
    joint on the CPU, as in Deformable GAN; E^n runs on its three images one by one; an Adam for D and for each block;
    float32, NCHW, plain Adam. That the losses of the first step are equal is checked in each run. The first row of a
    size is what shared work and the maps bring (G draws twice instead of three times, and goes back twice either way);
    the next rows add layout and precision. In "their maps ready" the other way is handed its pose maps and their time
    is left out, for Deformable GAN keeps them on disk and Pose-Transfer reads them from there. The last row is of the
    maps alone, from joints to maps on the device.
    """
    size = "quick" if quick else device.type
    reader = people(folder, 24 if quick else 800 if device.type == "cuda" else 96)
    rows = []
    for case in CASES[size]:
        what = f"GGB, {case.side} px, batch {case.batch}"

        def once(case: Case, profiler: SimpleProfiler) -> Turns:
            return run(case, case.switches[-1], reader, folder, device, profiler)

        for name in case.switches:
            turns = run(case, name, reader, folder, device)
            rows.append(Row(f"{what}: {name}", *rates(case, turns)))
        turns = run(case, case.switches[-1], reader, folder, device, ready=True)
        rows.append(Row(f"{what}: {case.switches[-1]}, their maps ready", *rates(case, turns), times=case.aim))
        if case.alone:
            rows += alone(case, f"{what}, alone", once, arithmetic(case), device)
    return [*rows, pose_row(device, quick)]


def rates(case: Case, turns: Turns) -> tuple[float, float]:
    """Images per second, ours and theirs."""
    return case.batch / median(turns.ours), case.batch / median(turns.theirs)


def people(folder: Path, images: int) -> Reader:
    """Drawn people, 256 x 256 as DeepFashion's photos, about four of each; drawn once for a folder."""
    root = folder / f"people-{images}"
    write_people(root, images=images, identities=images // 4, side=256, seed=0)
    return DeepFashion(root=root)


def run(
    case: Case,
    name: str,
    reader: Reader,
    folder: Path,
    device: torch.device,
    profiler: SimpleProfiler | None = None,
    ready: bool = False,
) -> Turns:
    """A fit with these switches; with a profiler our steps alone. ready: see PublicStep."""
    gc.collect()  # networks of the run before, which hang in cycles
    torch.manual_seed(0)
    model = GGB(**settings("ggb", image_size=case.side, loss=LOSS, grad_norm_every=0, **case.widths))
    other = PublicStep(model, ready=ready).to(device) if profiler is None else None
    reads = ("image", "target", "joints")
    options: dict[str, Any] = {"reads": reads, "load_ratio": 1.0, "store": folder / "stores"}
    data = ImageData(dataset=reader, image_size=case.side, batch_size=case.batch, **options)
    return fit(case, name, model, other, data, device, profiler)


def arithmetic(case: Case) -> int:
    """Floating-point operations of one image in one step, counted on two images without numbers."""
    count = 2
    with FakeTensorMode():
        model = GGB(**settings("ggb", image_size=case.side, loss=LOSS, **case.widths))
        assert model.discriminator_ggb is not None
        x, y = torch.empty(2, count, 3, case.side, case.side)
        c = torch.empty(count, model.pose_channels, case.side, case.side)
        with FlopCounterMode(display=False) as counter:
            *lower, image = model.generator(x, c)
            terms = model.d_terms(x, y, c, image.detach(), [small.detach() for small in lower])
            weighted(terms, model.loss["d"]).backward()
            for net in (model.discriminator, model.discriminator_ggb):
                net.requires_grad_(False)
            weighted(model.ggb_terms(x, y, lower), model.loss["ggb"]).backward()
            image = model.generator(x, c, heads=False)[-1]
            weighted(model.g_terms(x, y, c, image), model.loss["g"]).backward()
    return counter.get_total_flops() // count


def pose_row(device: torch.device, quick: bool) -> Row:
    """Maps of a batch of poses on the device, a fifth of whose joints are missing."""
    count, side, rounds = (2, 64, 3) if quick else (8, 256, 20)
    rng = torch.Generator().manual_seed(0)
    joints = torch.randint(side, (count, 18, 2), generator=rng)
    joints[torch.rand(count, 18, generator=rng) < 0.2] = -1
    here = joints.to(device)

    def at_once() -> Tensor:
        return pose_maps(here, side)

    def joint_by_joint() -> Tensor:
        return joint_maps(here, side, 4.0).to(device)

    assert torch.equal(at_once(), joint_by_joint())
    ours, other = alternate(at_once, joint_by_joint, rounds=rounds, device=device)
    return Row(f"pose maps, {side} px, batch {count}", count / ours, count / other, unit="maps/s")
