"""SIMGAN in one file, simgan_<data>.pt: generator, text encoder and vocabulary, enough to edit by a raw sentence.

{format, kind, data, config, G, ema, vse, vocab, phi_hash}: plain values and tensors only, so that it loads with
weights_only=True. The discriminator is not in it: a file to serve from, not to train on with.
"""

from pathlib import Path
from typing import Any

from common.classifier import read_weights
from common.text import Vocabulary
from common.weights import check_export, check_settings, on_cpu
from simgan.model import SIMGAN
from simgan.vse import text_encoder

FORMAT = 1
# settings that decide which weights there are, or what they are fed
GENERATOR = ("phi_dim", "phi_norm", "ngf", "n_res", "first_kernel", "res_post_relu", "trunk_skip", "ca_dim", "ca_bias")
WHOLE = (*GENERATOR, "image_size", "share_generators", "ndf", "d_max", "text_dim")


def export_editor(model: SIMGAN, data: str) -> dict[str, Any]:
    """The content of the file. data: name of the data set it was trained on.

    With fastText words `vocab` is null and their 8 GB file stays where it is; its path is in vse.config.
    """
    model.read_text()
    assert model.text_encoder is not None
    encoder = model.text_encoder
    words = list(encoder.vocabulary.words) if isinstance(encoder.vocabulary, Vocabulary) else None
    sizes = {"word_dim": encoder.net.gru.input_size, "dim": encoder.dim, "max_words": encoder.vocabulary.max_words}
    vectors = None if isinstance(encoder.vocabulary, Vocabulary) else str(encoder.vocabulary.path)
    average = model.ema_generator
    return {
        "format": FORMAT,
        "kind": "simgan",
        "data": data,
        "config": dict(model.hparams) | {"text_encoder": None, "phi_cache": None},
        "G": on_cpu(model.generator.state_dict()),
        "ema": None if average is None else on_cpu(average.module.state_dict()),
        "vse": {"config": sizes | {"vectors": vectors}, "text": on_cpu(encoder.net.state_dict())},
        "vocab": words,
        "phi_hash": encoder.hash,
    }


def load_editor(path: str | Path) -> SIMGAN:
    """The model of an exported file, on the CPU and in eval mode; `encode` and `draw` work, its D is untrained."""
    content = read_editor(path)
    model = SIMGAN(**content["config"])
    take_editor(model, content, path)
    return model.eval()


def read_editor(path: str | Path) -> dict[str, Any]:
    content = read_weights(path)
    check_export(content, "simgan", FORMAT, path, "a SIMGAN editor: give the simgan_<data>.pt that a fit made")
    return content


def restore(model: SIMGAN, path: str | Path) -> None:
    """Fills a model from a Lightning checkpoint or an exported file. UserError for another model's or other sizes."""
    content = read_weights(path)
    if "kind" in content or "state_dict" not in content:
        take_editor(model, read_editor(path), path)
        return
    model.on_load_checkpoint(content)
    check_settings(model.hparams, content["hyper_parameters"], WHOLE, path)
    model.load_state_dict(content["state_dict"])


def take_editor(model: SIMGAN, content: dict[str, Any], path: str | Path) -> None:
    check_settings(model.hparams, content["config"], GENERATOR, path)
    model.generator.load_state_dict(content["G"])
    if model.ema_generator is not None:
        model.ema_generator.module.load_state_dict(content["ema"])
    encoder = text_encoder({**content["vse"], "vocabulary": content["vocab"]}, content["phi_hash"])
    model.text_encoder = encoder.to(model.device)
    model.phi = None  # a table by another encoder would not fit
