"""JEM's training step with the habits of the public codes of GAN-CLS: [P] paarthneekhara/text-to-image, [R]
reedscot/icml2016. Neither has a guide; G is given one here. The reference of a test and of a benchmark, on the networks
of `jem`.

B batch, S image side. Written x photo, t its sentence, v its guide, z noise, x-hat = G(z, t, v).
"""

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from skimage import io, transform
from torch import Tensor, nn

from common.data.records import Sample
from jem.model import JEM


class Habits(NamedTuple):
    """Where the two differ."""

    g_updates: int  # of G for each of D
    redraw: bool  # G learns from noise of its own; False = all updates of a batch are of one z


HABITS = {"[P]": Habits(g_updates=2, redraw=False), "[R]": Habits(g_updates=1, redraw=True)}


class PublicStep:
    """D sees three whole images, each with the sentence projected anew: x, another photo in place of x-bar's sentence,
    x-hat. G draws for D's update and again for each of its own. Each loss is read at once; float32, NCHW, plain Adam.

    In its favour: G's pass for D keeps no graph and D's weights have no gradients in G's turn (TensorFlow leaves both
    out, Torch7 the second), sentences and guides lie ready, and nothing is shown or saved.
    """

    def __init__(self, model: JEM, habits: Habits) -> None:
        """Takes copies of the networks as they are, and looks sentences and guides up in the model's tables."""
        self.model, self.habits, self.weights = model, habits, model.loss
        self.generator, self.discriminator = deepcopy(model.generator), deepcopy(model.discriminator)
        self.opt_g, self.opt_d = (
            torch.optim.Adam(net.parameters(), lr=model.adam_options["lr"], betas=model.adam_options["betas"])
            for net in (self.generator, self.discriminator)
        )
        ours = (model.step["mismatch"], model.step["g_updates"], model.step["resample_noise"])
        self.same_terms = ours == ("image", *habits)
        self.seen: dict[str, float] = {}

    def to(self, device: torch.device) -> "PublicStep":
        for net in (self.generator, self.discriminator):
            net.to(device)  # in place, so the optimisers keep their parameters
        return self

    def given(self, batch: Sample) -> tuple[Tensor, ...]:
        """t, v and the noise of each of G's passes that draws its own."""
        t = self.model.normed(self.model.look_up(batch["row"], batch["caption"]))
        v, _ = self.model.guides(batch)
        assert v is not None
        return t, v, *(self.model.noise(len(t)) for _ in range(1 + self.habits.g_updates * self.habits.redraw))

    def __call__(self, batch: Sample, t: Tensor, v: Tensor, *noise: Tensor) -> dict[str, float]:
        """-> the terms that the model has too: all, or D's of x and x-hat where its step is another."""
        first, *others = noise
        self.train_discriminator(batch["image"], batch["other"], first, t, v)
        for z in others or [first] * self.habits.g_updates:
            self.train_generator(z, t, v)
        return {name: loss for name, loss in self.seen.items() if self.same_terms or name in ("d/real", "d/fake")}

    def train_discriminator(self, x: Tensor, other: Tensor, z: Tensor, t: Tensor, v: Tensor) -> None:
        self.opt_d.zero_grad()
        with torch.no_grad():
            image = self.generator(z, t, v)
        for name, shown in (("real", x), ("mismatch", other), ("fake", image)):
            self.read("d", name, self.discriminator(shown, t)).backward()
        self.opt_d.step()

    def train_generator(self, z: Tensor, t: Tensor, v: Tensor) -> None:
        self.opt_g.zero_grad()
        self.discriminator.requires_grad_(False)
        self.read("g", "adversarial", self.discriminator(self.generator(z, t, v), t)).backward()
        self.discriminator.requires_grad_(True)
        self.opt_g.step()

    def read(self, side: str, name: str, logits: Tensor) -> Tensor:
        """The weighted cost of calling them real (x, and x-hat by G) or fake, read at once."""
        wanted = torch.full_like(logits, float(name in ("real", "adversarial")))
        cost = nn.BCEWithLogitsLoss()(logits, wanted)
        self.seen[f"{side}/{name}"] = cost.item()
        return cost * (self.weights[side][name] or 0)


def decoded(photos: Sequence[Path], mirrored: Sequence[bool], side: int) -> Tensor:
    """Photos as [P] assembles its batch, each opened, resized and mirrored on every visit -> B,3,S,S in [-1, 1].

    The scikit-image of its time did not smooth before it resized.
    """
    batch = np.zeros((len(photos), side, side, 3))
    for place, (path, flip) in enumerate(zip(photos, mirrored, strict=True)):
        photo = transform.resize(io.imread(path), (side, side), anti_aliasing=False)
        batch[place] = np.fliplr(photo) if flip else photo
    return torch.from_numpy(batch.astype(np.float32)).permute(0, 3, 1, 2) * 2 - 1
