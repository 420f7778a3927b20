"""What a refactor must leave as it is: weights after 20 small steps of each model, numbers, descriptions, exports.

    python tests/bench/fingerprint.py FILE.json [FOLDER]      before; and after, into another file
    diff BEFORE.json AFTER.json                         equal on one machine, unless a commit says why not

Every setting that a preset could change is told, tensors are hashed without their names, and each network is given by
its file, so that neither words nor recipes move the fingerprint. One thread: sums of many are in no fixed order.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[2]
DRAWN = {
    "cub": "data=cub data.procedural.images=240 data.procedural.classes=30 data.procedural.side=76",
    "deepfashion": "data=deepfashion data.procedural.images=240 data.procedural.identities=48 data.procedural.side=64",
}
SHORT = (
    "preset=toy trainer=cpu trainer.precision=32-true trainer.max_epochs=1 trainer.limit_train_batches=20 "
    "trainer.log_every_n_steps=5 trainer.grid_every=1 logger=csv name=print"
)
GAN = "data.batch_size=8 model.average.decay=0.9 model.optimizer.lr=1.0e-3"
# name -> its model and data, its settings, the files it is given; in the order in which they need each other
MODELS: dict[str, tuple[str, str]] = {
    "classifier": ("classifier cub", "data.batch_size=32"),
    "vse": (
        "vse cub",
        "model.image_encoder={classifier} data.batch_size=32 model.bar.times_chance=0 model.optimizer.lr=3.0e-3",
    ),
    "damsm_text": ("damsm cub", "model.inputs=text data.batch_size=24"),
    "damsm_raw": ("damsm cub", "model.inputs=raw data.batch_size=24"),
    "is_network": ("is_network cub", "data.batch_size=24"),
    "simgan": (
        "simgan cub",
        f"{GAN} model.text_encoder={{vse}} model.generator.ngf=8 model.discriminator.ndf=8 "
        "model.generator.n_res=2 loss.g.cycle=5.0 needs_to_score.judge=null",
    ),
    "attngan": (
        "attngan cub",
        f"{GAN} needs_to_score.is_network=null model.damsm={{damsm_text}} model.generator.ngf=8 "
        "model.discriminator.ndf=8",
    ),
    "finegan": (
        "finegan cub",
        f"{GAN} model.inputs=raw model.damsm={{damsm_raw}} model.generator.ngf=8 "
        "model.discriminator.ndf=8 needs_to_score.denoised=null needs_to_score.is_network=null",
    ),
    "ggb": ("ggb deepfashion", f"{GAN} model.generator.ngf=8 model.discriminator.ndf=8"),
    "unet": ("unet deepfashion", f"{GAN} model.generator.ngf=8 model.discriminator.ndf=8"),
    "pg2": ("pg2 deepfashion", "data.batch_size=8"),
}


def digest(tensors: list[torch.Tensor]) -> str:
    """Of the values, whatever the order and the names."""
    each = sorted(hashlib.sha256(t.detach().cpu().contiguous().numpy().tobytes()).hexdigest() for t in tensors)
    return hashlib.sha256("".join(each).encode()).hexdigest()[:16]


def tensors_of(content: Any) -> list[torch.Tensor]:
    if isinstance(content, torch.Tensor):
        return [content]
    parts = content.values() if isinstance(content, dict) else content if isinstance(content, list | tuple) else ()
    return [tensor for part in parts for tensor in tensors_of(part)]


def command(*words: str) -> str:
    env = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "WANDB_MODE": "disabled"}
    done = subprocess.run([sys.executable, "run.py", *words], cwd=ROOT, env=env, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}\n{done.stderr}")
    return done.stdout


def fingerprint(folder: Path) -> dict[str, Any]:
    """model -> weights (of the checkpoint), export (of the finished run), numbers, description."""
    found: dict[str, Any] = {}
    files: dict[str, str] = {}
    for name, (pair, settings) in MODELS.items():
        model, data = pair.split()
        places = f"paths.runs={folder}/{name} paths.artifacts={folder}/artifacts"
        words = f"model={model} {DRAWN[data]} {SHORT} {settings} {places}".format(**files).split()
        told = json.loads(command("task=describe", "format=json", *(w for w in words if not w.startswith("task="))))
        command(*words)
        (run,) = (folder / name / f"{model}-{data}").iterdir()
        files[name] = str(next(run.glob("*.pt")))
        checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
        scored = [json.loads(path.read_text()) for path in (run / "eval").glob("*.json")]
        found[name] = {
            "weights": digest(tensors_of(checkpoint["state_dict"])),
            "optimizers": digest(tensors_of(checkpoint["optimizer_states"])),
            "export": digest(tensors_of(torch.load(files[name], weights_only=True))),
            "numbers": scored[0]["numbers"] if scored else None,
            "describe": {"networks": told["networks"], "losses": told["losses"]},
        }
        print(name, found[name]["weights"], file=sys.stderr, flush=True)
    return found


if __name__ == "__main__":
    folder = Path(sys.argv[2] if len(sys.argv) > 2 else tempfile.mkdtemp())
    Path(sys.argv[1]).write_text(json.dumps(fingerprint(folder), indent=1, sort_keys=True), encoding="utf-8")
