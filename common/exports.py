"""One file for a GAN to serve from; that of a network which others need is `gan.Artifact`.

Plain values and tensors only, so that all of them load with weights_only=True. Every file begins with format and kind.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self, cast

from torch import nn

from common.errors import UserError
from common.gan import GANModule
from common.weights import (
    KEPT,
    are_settings,
    as_words,
    check_export,
    check_fit,
    check_parts,
    check_settings,
    differing,
    flat,
    is_state,
    on_cpu,
    read_weights,
    settings_of,
    with_null,
)

RUN = "give the <model>_<data>.pt that a fit left in its run's folder"


class Exported(GANModule):
    """A GAN whose generator goes out in one file, <model>_<data>.pt, and comes back from it.

    {format, kind, data, config, G, ema, ...companions}: config the settings, G and ema state dicts of the generator and
    of its average (null where none is kept), companions what a generator is fed through, such as a text encoder. No
    discriminators: a file to serve from, not to train on with.
    """

    KIND: ClassVar[str]  # of the file
    FORMAT: ClassVar[int] = 1
    SERVED: ClassVar[tuple[str, ...]]  # settings that decide which weights G has, or what it is fed
    TRAINED: ClassVar[tuple[str, ...]] = ()  # and those that decide which others there are
    PLACES: ClassVar[tuple[str, ...]] = ()  # settings that are files of one machine: null in what leaves it
    COMPANIONS: ClassVar[Mapping[str, Any]] = {}  # parts of the file with their types (`weights.check_parts`)

    def nets(self) -> dict[str, nn.Module]:
        """G, and its average where one is kept."""
        average = self.ema_generator
        return {"G": self.generator} | ({} if average is None else {"ema": cast(nn.Module, average.module)})

    # ---- what a paper adds

    def companions(self) -> dict[str, Any]:
        """What the generator is fed through, as COMPANIONS has it."""
        return {}

    def take_companions(self, content: Mapping[str, Any], path: str | Path) -> None:
        """Companions of a file become this model's: read whole first, so that a refusal changes nothing."""

    def take_foreign(self, content: Mapping[str, Any], path: str | Path) -> None:
        """Weights that somebody else's code wrote. Here: none are known."""
        check_export(content, self.KIND, self.FORMAT, path, RUN)

    @staticmethod
    def comparable(settings: Mapping[str, Any]) -> Mapping[str, Any]:
        """Settings as files are compared by them."""
        return settings

    # ---- out and back

    def export(self) -> dict[str, Any]:
        """The content of the file."""
        head = {"format": self.FORMAT, "kind": self.KIND, "data": self.data_name}
        states = {name: on_cpu(net.state_dict()) for name, net in self.nets().items()}
        config = with_null(self.hparams, self.PLACES)
        return head | {"config": config, "ema": None} | states | self.companions()

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """The model of an exported file, on the CPU and in eval mode; its discriminators are untrained."""
        content = cls.read(path)
        with settings_of(path):
            model = cls(**content["config"])
        model.take(content, path)
        return model.eval()

    @classmethod
    def read(cls, path: str | Path) -> dict[str, Any]:
        """What a file of this kind holds. UserError for any other."""
        content = read_weights(path)
        check_export(content, cls.KIND, cls.FORMAT, path, RUN)
        check_parts(content, {"data": str, "config": are_settings, "G": is_state, **cls.COMPANIONS}, path)
        cls.check_age(content["config"], path)
        return content

    @classmethod
    def has_groups(cls, settings: Mapping[str, Any]) -> bool:
        """Whether settings have the groups that files are compared by, as this class takes them today."""
        compared = (KEPT, *cls.SERVED, *cls.TRAINED)
        return all(isinstance(settings.get(name.partition(".")[0]), Mapping) for name in compared if "." in name)

    @classmethod
    def check_age(cls, settings: Mapping[str, Any], path: str | Path) -> None:
        """UserError for settings of an earlier version: what they say by other names would count as the command's."""
        if not cls.has_groups(settings):
            raise UserError(
                f"{path} is of an earlier version, whose settings had other names: train again with this one."
            )

    @classmethod
    def words_of(cls, path: str | Path, settings: Mapping[str, Any]) -> dict[str, str]:
        """What a command has to say so that `settings` become those of a file: key -> value as it is written.

        {} for a file that has none, or that `restore` refuses for other reasons.
        """
        try:
            content = read_weights(path)
        except UserError:
            return {}
        theirs = content.get("config" if content.get("kind") == cls.KIND else "hyper_parameters")
        if not (isinstance(theirs, Mapping) and are_settings(theirs) and cls.has_groups(theirs)):
            return {}
        other = differing(cls.comparable(settings), cls.comparable(theirs), (*cls.SERVED, *cls.TRAINED))
        return as_words({name: flat(theirs)[name] for name in other})

    def restore(self, path: str | Path) -> None:
        """Weights of a checkpoint, of an exported file, or of public code that `take_foreign` knows.

        UserError for another model's or for other settings, with the words that would fit; nothing is changed then.
        """
        content = read_weights(path)
        if "kind" in content:
            self.take(self.read(path), path)
        elif "state_dict" in content:
            self.take_checkpoint(content, path)
        else:
            self.take_foreign(content, path)

    def take(self, content: Mapping[str, Any], path: str | Path) -> None:
        """Generator, average and companions of an exported file's content."""
        check_settings(self.comparable(self.hparams), self.comparable(content["config"]), self.SERVED, path)
        nets = self.nets()
        check_parts(content, dict.fromkeys(nets, is_state), path)
        for name, net in nets.items():
            check_fit(net, content[name], (), path)
        self.take_companions(content, path)
        for name, net in nets.items():
            net.load_state_dict(content[name])
        self.data_name = content["data"]

    def take_checkpoint(self, content: dict[str, Any], path: str | Path) -> None:
        """All weights of a Lightning checkpoint."""
        self.check_checkpoint(content, path)
        check_parts(content, {"hyper_parameters": are_settings}, path)
        self.check_age(content["hyper_parameters"], path)
        theirs = self.comparable(content["hyper_parameters"])
        check_settings(self.comparable(self.hparams), theirs, (*self.SERVED, *self.TRAINED), path)
        self.on_load_checkpoint(content)
        self.load_state_dict(content["state_dict"])
