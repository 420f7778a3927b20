"""JEM: GAN-CLS whose generator is guided by the features of a segmentation image of the training photo (Sec. 3).

B batch, S image side. Written x photo, t its sentence, z noise, v its guide (fc7 or conv5 of AlexNet or VGG-16), v-bar
the guide of another photo, x-hat = G(z, t, v).
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from common.blocks import upcast
from common.classifier import SIDES
from common.data.module import ImageData
from common.data.records import Records, Sample
from common.errors import UserError, choose
from common.losses import l1
from common.pictures import Images, Request, Sheet, find_images, pixels
from jem.extractor import EXTRACTORS, LAYERS, UNTRAINED, GuideExtractor, code_shape, rms
from jem.gan_cls import GANCLS, Settings
from jem.guidance import GuidePhoto, extractor_of, guides_of_photos, read_guidance, segmenter_of
from jem.networks import Discriminator, Generator, GuidedDiscriminator
from jem.segmenter import Segmenter

LAYOUT = 16  # pixels a side, of what the layout term compares
MADE_BY = ("layer", "view", "source")  # of `guide` what decides, with the extractor, which codes there are


def guide_shape(extractor: str, layer: str) -> tuple[int, ...]:
    """Shape of a guide. extractor: of `EXTRACTORS`, with `random_` in front for an untrained one."""
    choose("model.guide.extractor", extractor, [*EXTRACTORS, *(f"{UNTRAINED}{name}" for name in EXTRACTORS)])
    arch = extractor.removeprefix(UNTRAINED)
    return code_shape(arch, choose("model.guide.layer", layer, LAYERS), SIDES[arch])


class JEM(GANCLS):
    """G is guided by v at every stage; D sees image and sentence alone, as the paper lists its inputs."""

    codes: Tensor | None  # N,2,... float16: of each photo as it is and mirrored, ready for G
    training_rows: Tensor

    SOURCES: ClassVar[dict[str, str]] = GANCLS.SOURCES | {
        "d.guide": "not in the paper: -log(1 - D(x, t, v-bar)), so that an image has to follow its guide",
        "g.layout": "not in the paper: |x-hat - x| of images pooled to 16 x 16",
    }

    KIND = "jem"
    SERVED = (
        *GANCLS.SERVED,
        *(f"generator.{name}" for name in ("inject", "grid", "guide_width")),
        *(f"guide.{name}" for name in ("extractor", "variant", *MADE_BY, "center")),
    )
    PLACES = (*GANCLS.PLACES, "guidance", "extractor", "segmenter")
    COMPANIONS: ClassVar[Mapping[str, Any]] = {**GANCLS.COMPANIONS, "guide": dict}

    def __init__(
        self,
        *,
        guide: dict[str, Any],
        guidance: str | None,
        extractor: str | None,
        segmenter: str | None,
        **gan_cls: Any,
    ) -> None:
        """gan_cls: what `GANCLS` takes. guide: which codes, as conf/model/jem.yaml has it.

        guidance: the file of prepare=guidance. extractor, segmenter: files of the networks that a user's own photo goes
        through, for task=sample and task=figure alone.
        """
        self.network = f"{guide['extractor']}{guide['variant']}"
        self.code = guide_shape(self.network, guide["layer"])
        super().__init__(**gan_cls)
        self.save_hyperparameters()
        self.guide, self.guidance_file = guide, guidance
        self.extractor_file, self.segmenter_file = extractor, segmenter
        self.extractor: GuideExtractor | None = None
        self.segmenter: Segmenter | None = None
        self.register_buffer("codes", None, persistent=False)
        self.register_buffer("training_rows", None, persistent=False)
        self.mean = torch.zeros(self.code)  # of the training photos' codes, which `guide.center` takes away
        self.guidance: dict[str, Any] = {}  # how the codes were made: `Guidance.settings`

    def networks(self, arch: str, shared: Settings, generator: Settings, discriminator: Settings) -> Any:
        choose("model.generator.arch", arch, ("dcgan",))
        net = Generator(**shared, code=self.code, **generator)
        if discriminator["guide_width"] is not None:
            return net, GuidedDiscriminator(**shared, code=self.code, **discriminator)
        unguided = {name: value for name, value in discriminator.items() if name != "guide_width"}
        return net, Discriminator(**shared, **unguided)

    def examples(self) -> dict[str, tuple[Tensor, ...]]:
        v = torch.empty(2, *self.code, device="meta")
        found = super().examples()
        guided = isinstance(self.discriminator, GuidedDiscriminator)
        return {
            "generator": (*found["generator"], v),
            "discriminator": (*found["discriminator"], *((v,) if guided else ())),
        }

    # ---- guides

    def read_files(self, data: ImageData) -> None:
        super().read_files(data)
        self.read_guides(data.records)

    def before_scoring(self, data: ImageData) -> None:
        super().before_scoring(data)
        self.read_guides(data.records)

    def read_guides(self, records: Records) -> None:
        """The codes of all photos and of their mirror images, made once by prepare=guidance."""
        if self.codes is not None:
            return
        if self.guidance_file is None:
            raise UserError(
                "model=jem needs the guides of its photos: run `python run.py task=prepare prepare=guidance`, or give "
                "model.guidance=FILE."
            )
        wanted = {name: self.guide[name] for name in MADE_BY}
        found = read_guidance(self.guidance_file, records, extractor=self.network, **wanted)
        self.mean, self.guidance = found.mean.to(self.device), found.settings | {"file": str(self.guidance_file)}
        self.codes = torch.empty(found.features.shape, dtype=torch.float16, device=self.device)
        for start in range(0, len(records), 256):  # the table of conv5 codes has gigabytes
            part = found.features[start : start + 256].to(self.device)
            self.codes[start : start + 256] = self.ready(part.flatten(0, 1)).view_as(part)

    def ready(self, codes: Tensor) -> Tensor:
        """Codes of the extractor as G takes them: without the training photos' mean where `guide.center` says so, and
        of unit root mean square. B,... -> alike."""
        return rms(upcast(codes) - self.mean.to(codes.device) if self.guide["center"] else codes)

    def look_up_guide(self, row: Tensor, mirrored: Tensor | bool = False) -> Tensor:
        """v of photos, or of the mirror images of all or some: B int64, B bool -> B,..."""
        assert self.codes is not None, "read_guides(records) comes first"
        return upcast(self.codes[row, torch.as_tensor(mirrored, device=row.device).long().expand(len(row))])

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit":
            self.training_rows = torch.from_numpy(self.data.rows("train"))

    def guides(self, batch: Sample) -> tuple[Tensor | None, Tensor | None]:
        """v is mirrored where x is. v-bar: of another training photo, of whatever class, mirrored or not."""
        v = self.look_up_guide(batch["row"], batch.get("flip", False))
        if self.guide["shuffle"]:  # the control: guides of other photos of the batch say nothing of x
            v = v[torch.randperm(len(v), device=v.device)]
        if self.loss["d"].get("guide") is None:
            return v, None
        pick = torch.randint(len(self.training_rows) - 1, (len(v),), device=v.device)
        other = self.training_rows[pick]
        other = torch.where(other == batch["row"], self.training_rows[-1], other)  # uniform over all but the own
        return v, self.look_up_guide(other, "flip" in batch and torch.rand(len(v), device=v.device) < 0.5)

    def conditions(self, t: Tensor, v: Tensor | None) -> tuple[Tensor, ...]:
        """The sentence alone, and with `discriminator.guide_width` the guide too."""
        assert v is not None
        return (t, v) if isinstance(self.discriminator, GuidedDiscriminator) else (t,)

    def g_terms(self, x: Tensor, images: Tensor, t: Tensor, own: int, v: Tensor | None) -> dict[str, Tensor]:
        terms = super().g_terms(x, images, t, own, v)
        if self.loss["g"]["layout"] is not None:
            terms["layout"] = l1(*(F.adaptive_avg_pool2d(upcast(image), LAYOUT) for image in (images, x)))
        return terms

    # ---- serving

    def guide_of(self, batch: Sample) -> Tensor | None:
        return self.look_up_guide(batch["row"])

    def read_photos(self, words: Sequence[str], data: ImageData) -> tuple[Images, Tensor, list[str]]:
        """Test images and a user's photos (`photo.jpg`, `photo.jpg::mask.png`): where they are, v B,..., and what there
        is to say of them. A user's photo is segmented and looked at now."""
        images = find_images([word.partition("::")[0] for word in words], data)
        rows = [row for row in images.rows if row is not None]
        if rows:
            self.read_guides(data.records)
        own = iter(self.look_up_guide(torch.tensor(rows, device=self.device)) if rows else ())
        photos = [GuidePhoto.read(word) for word, row in zip(words, images.rows, strict=True) if row is None]
        theirs, notes = self.look_at(photos) if photos else (torch.zeros(0), [])
        others = iter(theirs)
        return images, torch.stack([next(others if row is None else own) for row in images.rows]), notes

    def look_at(self, photos: Sequence[GuidePhoto]) -> tuple[Tensor, list[str]]:
        """v of a user's photos: B,..., and what there is to say of them."""
        made = self.guidance
        if not made:
            raise UserError("this model has no guides that say how a photo is looked at: train it again.")
        if self.extractor is None:
            self.extractor = extractor_of(made, self.extractor_file).to(self.device)
            segmenter = segmenter_of(made, self.segmenter_file)
            self.segmenter = None if segmenter is None else segmenter.to(self.device)
        found, _, notes = guides_of_photos(photos, made, self.extractor, self.segmenter)
        return self.ready(found.to(self.device)), notes

    def respond(self, data: ImageData, request: Request) -> Sheet:
        """Sentences drawn after photos, n times each: several guides for one sentence, and the reverse."""
        if not request.texts or not request.images:
            raise UserError(
                "JEM draws a sentence as a photo is laid out: give text='this flower is red' and image=PHOTO.jpg."
            )
        image, text = request.pairs()
        unknown = self.unknown_words(request.texts)
        images, v, notes = self.read_photos(request.images, data)
        t, v = self.encode(list(request.texts))[text], v[image]
        photos = pixels(images, data)[image]
        drawn = self.pictures("picture", t, v, request.n, request.seed)
        rows = [{"image": images.names[i], "text": request.texts[k]} for i, k in zip(image, text, strict=True)]
        facts = {"unknown": unknown, "rows": rows, "notes": notes}
        return Sheet({"guide": photos, **drawn}, [row["text"] for row in rows], facts, generated=list(drawn))

    def grid(self, batch: Sample) -> dict[str, Tensor]:
        """Columns of the picture of progress: x, its sentence drawn twice, and once after the mirrored guide."""
        z = self.fixed_noise(batch["row"])
        t = self.normed(self.look_up(batch["row"], batch["caption"]))
        mirrored = self.infer(z, t, self.look_up_guide(batch["row"], True))
        return super().grid(batch) | {"x-hat, guide mirrored": mirrored}

    # ---- files: what a user's own photo has to go through is named, not carried along

    def companions(self) -> dict[str, Any]:
        return super().companions() | {"guide": {"mean": self.mean.cpu(), "made": self.guidance}}

    def take_companions(self, content: Mapping[str, Any], path: Any) -> None:
        super().take_companions(content, path)
        self.mean, self.guidance = content["guide"]["mean"].to(self.device), content["guide"]["made"]
        self.guidance_file = self.guidance_file or self.guidance.get("file")
        self.codes = None
