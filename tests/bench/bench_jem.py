"""Speed of JEM's training step against the same with the habits of the public codes of GAN-CLS, part by part."""

import gc
from pathlib import Path
from statistics import median
from typing import Any

import torch
from pytorch_lightning.profilers import SimpleProfiler
from torch.utils.flop_counter import FlopCounterMode

from common.data.module import ImageData
from common.data.procedural.write_oxford102 import write_flowers
from common.data.readers.oxford102 import Oxford102
from common.losses import weighted
from common.tasks.trainer import native_bfloat16
from jem.model import JEM
from tests.bench.bench_step import ALL, ALL_CPU, CHANNELS_LAST, FIRST, NCHW, Case, Turns, alone, fit
from tests.bench.timing import Row, alternate
from tests.peers.jem_step import HABITS, PublicStep, decoded
from tests.worlds.settings import settings

TINY: dict[str, Any] = {"sentence.dim": 16, "ngf": 4, "ndf": 4, "guide.variant": "_tiny"}
CASES = {
    "quick": [Case(64, 4, (FIRST,), rounds=1, alone=1, widths=TINY)],
    "cpu": [Case(64, 16, (FIRST, NCHW) if native_bfloat16() else (FIRST,), rounds=3, aim=2.0, alone=2)],
    "cuda": [Case(64, 64, (FIRST, CHANNELS_LAST, ALL_CPU, ALL), rounds=5, turn=10, warm=15, aim=2.0, alone=60)],
}
AIM = 1.3  # times as fast where a processor does not multiply bfloat16
WRONG = {"[P]": 1.0, "[R]": 0.5}  # what either code weighs D's wrong pair and its picture with


class Flowers:
    """Drawn flowers of the size of Oxford-102's photos, with sentence vectors and codes that lie in memory."""

    def __init__(self, folder: Path, images: int) -> None:
        root = folder / f"flowers-{images}"
        write_flowers(root, images=images, classes=6, side=500, seed=0)
        self.folder, self.reader = folder, Oxford102(root=root)
        self.records = self.reader.read()

    def feed(self, model: JEM) -> None:
        """Gives a model numbers in place of what skip-thoughts and AlexNet make of these."""
        count, most = len(self.records), max(map(len, self.records.captions))
        model.table = torch.randn(count, most, model.sentence["dim"]).half()
        model.codes = model.ready(torch.randn(2 * count, *model.code)).half().unflatten(0, (count, 2))

    def data(self, case: Case) -> ImageData:
        return ImageData(
            dataset=self.reader,
            image_size=case.side,
            batch_size=case.batch,
            reads=("image", "other", "caption"),
            load_ratio=1.0,
            squash=True,
            store=self.folder / "stores",
        )


def jem(folder: Path, *, device: torch.device, quick: bool) -> list[Row]:
    """The step of `jem.model` with AlexNet's fc7 and 4,800 numbers a sentence, in its Trainer and fed by the store with
    drawn flowers; turn by turn, on the same batches and from the same weights, with the step as
    paarthneekhara/text-to-image ([P]) and reedscot/icml2016 ([R]) write it, on the same networks: three whole passes of
    D, the wrong pair being another photo with the same sentence; G draws for D and again for each of its own updates,
    two from one z in [P], one from a z of its own in [R]; losses are read at once; float32, NCHW, plain Adam. G is
    updated as often by either way. In the first row of a code ours does the same, less only the drawing that one z
    lets G share in [P]; that all losses of the first step are equal is checked in each run. In the next, JEM's own
    step, the wrong pair is another sentence with the same photo, so that D looks at it once, and one drawing serves D
    and G: what the algorithm brings, in the same precision and with the batch in memory. How much that can be say the
    images for a million million operations of either step. Precision and layout come after it, where the processor
    multiplies bfloat16. Last, the data: [P] opens and resizes both photos of a pair with scikit-image on each visit, in
    the process that trains, so that "its photos opened" adds this time, measured apart, to that of its step.
    """
    flowers = Flowers(folder, 24 if quick else 96)
    rows = []
    for case in CASES["quick" if quick else device.type]:
        photos, opened = photo_row(flowers, case, device)
        aim = AIM if case.switches[-1] == FIRST else case.aim  # of the whole: [R] opens its photos in other threads
        for code in HABITS:
            what = f"JEM as {code}, {case.side} px, batch {case.batch}"
            turns = run(case, FIRST, code, flowers, device, same=True)
            rows.append(Row(f"{what}: its step, float32 NCHW", *rates(case, turns)))
            for name in case.switches:
                turns = run(case, name, code, flowers, device)
                whole = code == "[R]" and name == case.switches[-1]
                rows.append(Row(f"{what}: {name}", *rates(case, turns), times=aim if whole else None))
            counted = (1e12 / count for count in arithmetic(case, code))
            rows.append(Row(f"{what}: images by arithmetic alone", *counted, unit="images/TFLOP"))
            if code == "[P]":
                ours, theirs = rates(case, turns, opened)
                rows.append(Row(f"{what}: {case.switches[-1]}, its photos opened", ours, theirs, times=aim))
        rows.append(photos)

        def once(case: Case, profiler: SimpleProfiler) -> Turns:
            return run(case, case.switches[-1], "[R]", flowers, device, profiler)

        what = f"JEM, {case.side} px, batch {case.batch}, alone"
        rows += alone(case, what, once, arithmetic(case, "[R]")[0], device)
    return rows


def rates(case: Case, turns: Turns, more: float = 0.0) -> tuple[float, float]:
    """Images per second, ours and theirs. more: seconds that each of their steps takes besides."""
    return case.batch / median(turns.ours), case.batch / (median(turns.theirs) + more)


def build(case: Case, code: str, same: bool) -> JEM:
    """A model that updates G as often as the code. same: its whole step is as the code has it."""
    habits, fake = HABITS[code], WRONG[code]
    loss = {
        "d": {"real": 1.0, "mismatch": fake, "fake": fake, "guide": None},
        "g": {"adversarial": 1.0, "layout": None},
    }
    widths: dict[str, Any] = {"g_updates": habits.g_updates, "grad_norm_every": 0, **case.widths}
    if same:
        widths |= {"step.mismatch": "image", "resample_noise": habits.redraw}
    return JEM(**settings("jem", image_size=case.side, loss=loss, **widths))


def run(
    case: Case,
    name: str,
    code: str,
    flowers: Flowers,
    device: torch.device,
    profiler: SimpleProfiler | None = None,
    same: bool = False,
) -> Turns:
    """A fit with these switches; with a profiler our steps alone. same: see `build`."""
    gc.collect()  # networks of the run before, which hang in cycles
    torch.manual_seed(0)
    model = build(case, code, same)
    flowers.feed(model)
    other = PublicStep(model, HABITS[code]).to(device) if profiler is None else None
    return fit(case, name, model, other, flowers.data(case), device, profiler, HABITS[code].g_updates)


def arithmetic(case: Case, code: str) -> tuple[int, int]:
    """Floating-point operations of one image in one step, ours and theirs, counted on two images."""
    count = 2
    model = build(case, code, same=False)
    other = PublicStep(model, HABITS[code])
    x, another = torch.randn(2, count, 3, case.side, case.side)
    t, wrong = torch.randn(2, count, model.sentence["dim"])
    z, v = torch.randn(count, model.generator.z_dim), torch.randn(count, *model.code)
    batch: Any = {"image": x, "other": another}
    with FlopCounterMode(display=False) as ours:
        images = model.generator(z, t, v)
        terms = model.d_terms(batch, t, wrong, images.detach(), v, None)
        weighted(terms, model.loss["d"]).backward()
        model.discriminator.requires_grad_(False)
        for update in range(model.step["g_updates"]):
            images = model.generator(z, t, v) if update else images
            weighted(model.g_terms(x, images, t, count, v), model.loss["g"]).backward()
    with FlopCounterMode(display=False) as theirs:
        other(batch, t, v, *[z] * (1 + HABITS[code].g_updates * HABITS[code].redraw))
    return ours.get_total_flops() // count, theirs.get_total_flops() // count


def photo_row(flowers: Flowers, case: Case, device: torch.device) -> tuple[Row, float]:
    """Batches of photos and of another photo for each, ready on the device; and the seconds of [P]'s."""
    data = flowers.data(case)
    rows = data.rows("train")[: case.batch]
    photos = [flowers.records.images[row] for row in [*rows, *rows[::-1]]]
    batches = data.view_loader(rows, 0)

    def stored() -> None:
        for _ in range(2):
            data.move(next(iter(batches)), device)

    def opened() -> None:
        decoded(photos, [row % 2 == 0 for row in range(len(photos))], case.side).to(device)

    stored()
    ours, theirs = alternate(stored, opened, rounds=3, device=device)
    what = f"pairs of photos, {case.side} px, batch {case.batch}: ready on the {device.type}"
    return Row(what, case.batch / ours, case.batch / theirs, unit="pairs/s"), theirs
