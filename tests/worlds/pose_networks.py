"""GGB's and PG2's networks as conf/model has them, at 256 px, so that a test says only what differs."""

from typing import Any

from ggb import pg2_networks
from ggb.networks import LEVELS, Critic, Discriminator, Generator, GuidingBlock, GuidingBlocks
from tests.worlds.settings import settings


def generator(**options: Any) -> Generator:
    sizes: dict[str, Any] = {"image_size": 256, "pose_channels": 18, "levels": LEVELS}
    return Generator(**sizes | settings("ggb")["generator"] | options)


def discriminator(**options: Any) -> Discriminator:
    sizes: dict[str, Any] = {"image_size": 256, "condition_channels": 0}
    return Discriminator(**sizes | settings("ggb")["discriminator"] | options)


def of_critics() -> dict[str, Any]:
    """What the critics share with D."""
    return {name: value for name, value in settings("ggb")["discriminator"].items() if name != "head"}


def critic(**options: Any) -> Critic:
    return Critic(**of_critics() | options)


def guiding_block(**options: Any) -> GuidingBlock:
    blocks = {name: value for name, value in settings("ggb")["blocks"].items() if name != "downsize"}
    return GuidingBlock(**of_critics() | blocks | options)


def guiding_blocks(**options: Any) -> GuidingBlocks:
    sizes: dict[str, Any] = {"image_size": 256, "levels": LEVELS}
    return GuidingBlocks(**sizes | of_critics() | settings("ggb")["blocks"] | options)


def pg2_generator(**options: Any) -> pg2_networks.Generator:
    sizes: dict[str, Any] = {"image_size": 256, "pose_channels": 18, "tf_padding": False}
    return pg2_networks.Generator(**sizes | settings("pg2")["generator"] | options)


def pg2_discriminator(**options: Any) -> pg2_networks.Discriminator:
    sizes: dict[str, Any] = {"image_size": 256, "tf_padding": False}
    return pg2_networks.Discriminator(**sizes | settings("pg2")["discriminator"] | options)
