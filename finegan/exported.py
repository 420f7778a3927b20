"""FineGAN in one file, <model>_<data>.pt: generator, its average and both encoders, enough to draw and to be scored.

{format, kind, data, config, G, ema, encoders}: plain values and tensors only, so that it loads with weights_only=True.
The discriminators are not in it: a file to serve from, not to train on with.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.classifier import read_weights
from common.weights import check_export, check_settings, on_cpu
from finegan.checkpoints import encoders_of, generator_sizes, read_kind, take_generator
from finegan.model import FineGAN

FORMAT = 1
# settings that decide which weights there are ...
SIZES = ("image_size", "ngf", "code_dim", "z_dim", "c_dim", "residual_blocks", "masks")
MASKS = ("mask_levels", "mask_channels", "mask_channels_max")
# ... or what they are fed
GENERATOR = ("inputs", *SIZES, *MASKS, "legacy", "denoise_rule", "min_certainty")
JUDGES = tuple(f"loss.{side}.{term}" for side in "dg" for term in ("part", "fg", "fg_part"))  # null or not
WHOLE = (*GENERATOR, "ndf", *JUDGES)


def export_finegan(model: FineGAN, data: str) -> dict[str, Any]:
    """The content of the file. data: name of the data set it was trained on."""
    model.read_conditions()
    encoders, average = model.encoders, model.ema_generator
    assert encoders is not None
    return {
        "format": FORMAT,
        "kind": "finegan",
        "data": data,
        "config": dict(model.hparams) | {"damsm": None, "cleaned": None},
        "G": on_cpu(model.generator.state_dict()),
        "ema": None if average is None else on_cpu(average.module.state_dict()),
        "encoders": {
            "names": list(encoders.names),
            "inputs": encoders.inputs,
            "cleaned_hash": encoders.cleaned_hash,
            "config": encoders.config,
            "hash": encoders.hash,
            "text": on_cpu(encoders.text.net.state_dict()),
            "image": on_cpu(encoders.image.net.state_dict()),
        },
    }


def load_finegan(path: str | Path) -> FineGAN:
    """The model of an exported file, on the CPU and in eval mode; `encode` and `draw` work, its D is untrained."""
    content = read_finegan(path)
    model = FineGAN(**content["config"])
    take_finegan(model, content, path)
    return model.eval()


def read_finegan(path: str | Path) -> dict[str, Any]:
    content = read_weights(path)
    wanted = "FineGAN or AttnGAN: give the <model>_<data>.pt that a fit made"
    check_export(content, "finegan", FORMAT, path, wanted)
    return content


def restore(model: FineGAN, path: str | Path) -> None:
    """Fills a model from a Lightning checkpoint, an exported file or AttnGAN's published generator.

    UserError for another model's, or for other settings. A published generator's encoders are those of model.damsm.
    """
    content = read_weights(path)
    if "kind" in content:
        take_finegan(model, read_finegan(path), path)
    elif "state_dict" in content:
        model.on_load_checkpoint(content)
        check_settings(settings(model.hparams), settings(content["hyper_parameters"]), WHOLE, path)
        model.load_state_dict(content["state_dict"])
    else:
        sizes = generator_sizes(read_kind(path, "generator"), path)
        check_settings(model.hparams, sizes, SIZES, path)
        take_generator(model, path)


def settings(hparams: Mapping[str, Any]) -> dict[str, Any]:
    """Settings, with the terms of the loss that have networks of their own: 1.0 or null, whatever their weight."""
    weights = {f"loss.{side}.{name}": weight for side in "dg" for name, weight in hparams["loss"][side].items()}
    return dict(hparams) | {name: None if weights[name] is None else 1.0 for name in JUDGES}


def take_finegan(model: FineGAN, content: dict[str, Any], path: str | Path) -> None:
    check_settings(model.hparams, content["config"], GENERATOR, path)
    model.generator.load_state_dict(content["G"])
    if model.ema_generator is not None:
        model.ema_generator.module.load_state_dict(content["ema"])
    model.conditions = None  # their codes are of other encoders
    model.take_encoders(encoders_of(content["encoders"], legacy=model.hparams["legacy"]))
