"""Five papers on conditional image synthesis, one command.

    python run.py model=simgan data=cub                          fit, then evaluate
    python run.py model=simgan data=cub preset=toy               no data, no GPU, no account: minutes on a laptop
    python run.py -m model=simgan data=cub,oxford102 seed=0,1,2  a sweep; jobs that are done are skipped
    python run.py task=describe model=simgan                     networks, sizes, losses and needs of a command
    python run.py task=sample image=photo.jpg text="a red bird with white wings" preset=toy
    python run.py task=doctor                                    what is installed and what is missing

A group is chosen with GROUP=CHOICE, a value is set with KEY=VALUE. `task=sample --help` lists the keys of a task,
`model=simgan --help` those of a model, `--cfg job` prints all with their values. Names that collide:
simgan is Yu et al., ICIP 2019, not Apple's SimGAN.
"""

import logging
import os
import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from common.command import (
    CONF,
    Composed,
    as_it_stands,
    check_data,
    check_pair,
    check_values,
    check_words,
    help_text,
    of_groups,
    plain,
)
from common.errors import UserError, sentence_of

refused: list[str] = []  # what jobs said that a user can put right


@hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")
def job(cfg: DictConfig) -> None:
    """One job of a command or of a sweep."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")  # to standard error
    hydra_config = HydraConfig.get()
    sweeping = hydra_config.mode == RunMode.MULTIRUN
    words: list[str] = OmegaConf.to_container(hydra_config.overrides.task)  # type: ignore[assignment]  # as written
    try:
        values = plain(Composed(cfg, of_groups(hydra_config.runtime.choices)), words)
        if values["task"] == "doctor":  # must be able to say that torch and torchvision do not fit
            from common.tasks.doctor import examine

            print(examine(values))
            return
        check_values(values)
        check_pair(values)
        check_data(values)
        if sweeping and int(values["trainer"]["devices"]) > 1 and values["chosen"].get("launcher") is None:
            raise UserError(
                "a sweep on several devices would start every job again in each of its processes: choose trainer=auto "
                "for one device a job, or launcher=slurm"
            )
        from common import tasks

        tasks.run(values, sweeping=sweeping)
    except (UserError, OSError) as error:  # kept for main: Hydra would print a traceback and stop a sweep
        refused.append(f"{' '.join(words)}: " * sweeping + sentence_of(error))


def main() -> int:
    """Exit codes: 0 done, 1 a bug (with its traceback), 2 something the user can put right, 130 stopped."""
    for stream in (sys.stdout, sys.stderr):  # a path that the terminal's encoding has no letters for
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    logging.getLogger("hydra").setLevel(logging.WARNING)  # a line for each job of a sweep
    words = [as_it_stands(word) for word in sys.argv[1:]]
    sys.argv[1:] = sorted(words, key=lambda word: word not in ("-m", "--multirun"))  # argparse wants it before or after
    refused.clear()
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # a bug shows where it is
    try:
        if not words or {"--help", "-h"} & set(words):
            print(help_text(words) if len(words) > 1 else f"{__doc__}\n{help_text([])}")
            return 0
        own = [word for before, word in zip(["", *words], words, strict=False) if before not in ("--cfg", "-c")]
        check_words(
            [word for word in own if not word.startswith("-")], sweeping=bool({"-m", "--multirun"} & set(words))
        )
        job()
    except (UserError, OSError) as error:
        refused.append(sentence_of(error))
    except (HydraException, OmegaConfBaseException) as error:  # of a sweep's folder or launcher
        refused.append(f"the command cannot be composed: {str(error).splitlines()[0]}")
    except KeyboardInterrupt:
        print("stopped; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    for sentence in refused:
        print("error:", *sentence.splitlines(), file=sys.stderr)
    return 2 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
