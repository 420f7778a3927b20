"""What a command works on: its plain configuration, and the data read when they are first asked for."""

import logging
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.config import build
from common.errors import UserError, choose
from common.files import short_hash

if TYPE_CHECKING:
    from common.data.module import ImageData
    from common.data.records import Records

log = logging.getLogger(__name__)
Config = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """A one-off job of conf/prepare: `settings` are those of its file, `path` is where its product goes."""

    cfg: Config
    path: Path

    @property
    def settings(self) -> Config:
        """The section `prepare` of the configuration."""
        return self.cfg["prepare"]

    @cached_property
    def data(self) -> "ImageData":
        """The data module, made at first use."""
        return load_data(self.cfg)

    @property
    def records(self) -> "Records":
        """What its reader gives."""
        return self.data.records


def load_data(cfg: Config) -> "ImageData":
    """The data module of a configuration; procedural data is drawn first where it is asked for and absent."""
    from common.data.module import ImageData  # with it torch, which tasks without data do without

    spec = cfg["data"]
    root = Path(spec.get("root") or cfg["paths"]["data"]).expanduser()
    store, spare = spec["store"], Path(cfg["paths"]["artifacts"]) / "stores"
    if choose("data.source", spec["source"], ("real", "procedural")) == "procedural":
        root = procedural_root(cfg)
        store = store or spare
    reader = build(
        spec["reader"],
        root=str(root),
        captions=spec["captions"] if "caption" in spec["reads"] or (cfg.get("pictures") or {}).get("other") else "none",
        allow_missing=spec["allow_missing"],
        masks="mask" in spec["reads"],
        attributes="attributes" in spec["reads"],
    )
    own = "image_size batch_size load_ratio reads train_split flip rotate_deg bbox_crop squash background".split()
    own += ["allow_missing", "workers"]
    settings = {key: spec[key] for key in own} | {"store": store, "spare_store": spare}
    return ImageData(dataset=reader, seed=cfg["seed"], shrink=cfg.get("prerequisite", False), **settings)


def procedural_root(cfg: Config) -> Path:
    """The folder of the procedural stand-in of a data set, drawn now if it is not there."""
    spec = cfg["data"]
    if not spec.get("procedural"):
        raise UserError(f"data={spec['name']} has no procedural stand-in: choose data=cub or data=oxford102")
    root = Path(cfg["paths"]["artifacts"]) / "procedural" / f"{spec['name']}-{short_hash(spec['procedural'])}"
    if not (root / "procedural.json").is_file():
        log.info("drawing %d procedural pictures into %s", spec["procedural"]["images"], root)
        build(spec["procedural"], root=root)  # locks and writes its folder whole
    return root
