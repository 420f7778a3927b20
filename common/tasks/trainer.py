"""Fit one model: the Lightning trainer with the callbacks that every run has."""

import logging
import os
import signal
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.plugins.environments import LightningEnvironment
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from common.blocks import frozen_prefixes
from common.data.module import ImageData
from common.errors import UserError, check_ranges, choose
from common.files import open_file, whole
from common.tasks.callbacks import (
    FixedGrid,
    Milestones,
    RunProgressBar,
    SeedEachBatch,
    Status,
    StopTogether,
    TrimMetrics,
)
from common.tasks.runs import RunFolder

log = logging.getLogger(__name__)
logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)  # banners and tips; errors still come through
for known in (
    "isinstance.treespec",  # inside Lightning, torch 2.15
    ".*smaller than the logging interval",  # the last batch of an epoch is logged whatever the interval
    ".*in eval mode at the start of training",  # frozen networks are, on purpose
    ".*does not have many workers",  # the store needs none
    "Checkpoint directory .* exists",  # a resumed run
):
    warnings.filterwarnings("ignore", message=f".*{known}")


CHOICES: dict[str, tuple[object, ...]] = {
    "accelerator": ("auto", "cpu", "gpu", "cuda"),
    "channels_last": ("auto", True, False),
    "compile": ("auto", False, None, "default", "reduce-overhead", "max-autotune"),
}
RANGES = {
    "devices": "int [1, inf)",
    "num_nodes": "int [1, inf)",
    "max_epochs": "int [1, inf)",
    "limit_train_batches": "null or int [1, inf) or (0, 1]",  # a number or a share of them
    "log_every_n_steps": "int [1, inf)",
    "checkpoint_every": "int [1, inf)",
    "keep_every": "int [1, inf)",
    "grid_every": "int [1, inf)",
}


class AtomicCheckpoints(TorchCheckpointIO):
    """A checkpoint is written beside its place and moved there, so that a kill or a full disk leaves the old one.

    Lightning's own writer goes through the system's temporary folder, from which a move need not be atomic.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Written whole or not at all."""
        with whole(path, "the checkpoint before it is whole; free space and start the same command again") as part:
            torch.save(checkpoint, part)


def native_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 itself; others only lose time by it."""
    able: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.11 has it not yet
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def check_options(options: Mapping[str, Any]) -> bool:
    """Refuses settings of conf/trainer that cannot be, and devices that are not here. -> whether a GPU is used."""
    check_ranges("trainer", options, RANGES)
    for name, known in CHOICES.items():
        choose(f"trainer.{name}", options[name], known)
    gpu = options["accelerator"] in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    if options["accelerator"] in ("gpu", "cuda") and not gpu:
        raise UserError("trainer.accelerator=gpu and no GPU is to be seen here: choose trainer=cpu, or see task=doctor")
    here = torch.cuda.device_count() if gpu else os.cpu_count() or 1
    if options["devices"] > here:
        raise UserError(f"trainer.devices={options['devices']} and there are {here} here: set trainer.devices={here}")
    return gpu


def started_by_slurm(options: Mapping[str, Any]) -> bool:
    """Whether srun started a process for each device: in a shell of an allocation it did not, whatever it says."""
    return "SLURM_PROCID" in os.environ and options["devices"] * options["num_nodes"] > 1


def trainer_for(options: Mapping[str, Any], folder: RunFolder, *, seed: int, grid: bool) -> pl.Trainer:
    """A Lightning trainer from conf/trainer, without loggers. grid: draw the fixed inputs every `grid_every` epochs."""
    gpu = check_options(options)
    precision = options["precision"]
    if precision == "auto":
        precision = "bf16-mixed" if gpu or native_bfloat16() else "32-true"
    many = int(options["devices"]) * int(options["num_nodes"]) > 1
    every, keep = int(options["checkpoint_every"]), int(options["keep_every"])
    places = folder.path / "checkpoints"
    callbacks: list[Callback] = [
        TrimMetrics(),
        SeedEachBatch(seed),
        Status(folder),
        StopTogether(),
        RunProgressBar(),
        ModelCheckpoint(
            places, filename="last", every_n_epochs=every, save_on_train_epoch_end=True, enable_version_counter=False
        ),
        Milestones(
            places,
            filename="e{epoch:04d}",
            auto_insert_metric_name=False,
            every_n_epochs=keep,
            save_top_k=-1,
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        ),
    ]
    if grid:
        callbacks.insert(3, FixedGrid(folder.path / "samples", every=int(options["grid_every"])))
    plugins: list[Any] = [AtomicCheckpoints()]
    if "SLURM_NTASKS" in os.environ and not started_by_slurm(options):
        plugins.append(LightningEnvironment())
    try:
        return pl.Trainer(
            accelerator="gpu" if gpu else "cpu",
            devices=options["devices"],
            num_nodes=options["num_nodes"],
            strategy=options["strategy"],
            precision=precision,
            deterministic=options["deterministic"],
            benchmark=not options["deterministic"],
            sync_batchnorm=bool(options["sync_batchnorm"]) and many and gpu,  # torch has it for GPUs only
            max_epochs=options["max_epochs"],
            limit_train_batches=1.0 if options["limit_train_batches"] is None else options["limit_train_batches"],
            log_every_n_steps=options["log_every_n_steps"],
            use_distributed_sampler=False,  # EpochSampler cuts the global batch by rank itself
            plugins=plugins,
            callbacks=callbacks,
            logger=False,
            enable_model_summary=False,
            default_root_dir=folder.path,
            num_sanity_val_steps=0,
        )
    except (ValueError, MisconfigurationException) as error:  # precision, strategy, devices: only it knows which exist
        raise UserError(f"Lightning takes no such trainer settings: {str(error).splitlines()[0]}") from None


def apply_memory_format(model: pl.LightningModule, options: Mapping[str, Any]) -> None:
    """channels_last and in-place compile of a GAN's networks: faster, same numbers up to rounding.

    The parts of a network are compiled, not the whole: a step calls the parts (the trunk once for two sentences).
    """
    gpu = options["accelerator"] != "cpu" and torch.cuda.is_available()
    nets = [net for name, net in model.named_children() if name.startswith(("generator", "discriminator"))]
    for net in [one for group in nets for one in (group if isinstance(group, torch.nn.ModuleList) else [group])]:
        if options["channels_last"] is True or (options["channels_last"] == "auto" and gpu):
            net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        mode = options["compile"]
        if mode not in (False, None) and (mode != "auto" or gpu):
            for part in net.children():
                part.compile(mode="default" if mode == "auto" else mode)  # in place, so that keys keep their names


def epochs_of(checkpoint: Path, model: pl.LightningModule, most: int) -> int:
    """Epochs behind a checkpoint that is to be gone on from.

    UserError when it is damaged, of another model, of other sizes, has more than `most` epochs behind it, or a learning
    rate that was to end with another epoch.
    """
    way_out = "give another with resume=FILE, or choose name=... for a new run"
    open_file(checkpoint).close()
    try:
        facts = torch.load(checkpoint, weights_only=True, mmap=True, map_location="cpu")
        done, theirs = int(facts["epoch"]) + 1, {key: value.shape for key, value in facts["state_dict"].items()}
        kind, schedules = facts["suite"]["model"], facts["lr_schedulers"]
    except Exception:  # the reader fails in a dozen ways on a damaged file
        raise UserError(f"{checkpoint} is damaged or no checkpoint of a fit here: {way_out}") from None
    if kind != type(model).__name__:
        raise UserError(f"{checkpoint} is of {kind}, not of {type(model).__name__}: {way_out}")
    frozen = frozen_prefixes(model)
    mine = {key: value.shape for key, value in model.state_dict().items() if not (frozen and key.startswith(frozen))}
    if mine and mine != theirs:  # some models are built only when the data is there
        other = min(key for key in mine | theirs if mine.get(key) != theirs.get(key))
        raise UserError(f"{checkpoint} was made with other model settings, which show in {other}: {way_out}")
    if done > most:
        raise UserError(f"{checkpoint} has {done} epochs behind it, more than trainer.max_epochs={most}: {way_out}")
    lengths = {rate["epochs"] for schedule in schedules for rate in schedule.get("lr_lambdas", ()) if rate}
    if lengths - {most}:
        raise UserError(
            f"{checkpoint} was trained with a learning rate that ends with trainer.max_epochs={max(lengths)}, not "
            f"{most}: set that, or {way_out}"
        )
    return done


def fit(
    trainer: pl.Trainer,
    model: pl.LightningModule,
    data: ImageData,
    folder: RunFolder,
    options: Mapping[str, Any],
    checkpoint: Path | None,
) -> None:
    """Trains to `max_epochs`, going on from a checkpoint where there is one."""
    apply_memory_format(model, options)
    if trainer.is_global_zero:
        folder.say("running", started=time.strftime("%Y-%m-%dT%H:%M:%S"), max_epochs=options["max_epochs"])
    try:
        trainer.fit(model, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    except SystemExit:  # Lightning ends with 1 on Ctrl-C and with 0 on SIGTERM
        if trainer.received_sigterm:
            # the first process would kill itself when another ends with an error before it does
            raise SystemExit(128 + signal.SIGTERM if trainer.is_global_zero else 0) from None
        if trainer.interrupted:
            raise KeyboardInterrupt from None
        raise
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()  # data modules would give the scoring process its rank's share only
