"""The command line: compose the config, check it, call the task that it names; errors become exit statuses.

python run.py experiment=quickstart              one run
python run.py pair=resnet20,resnet32 -m          several: a sweep
python run.py +sweeps=homogeneous seed=0,1,2     a sweep that sweeps/ names
python run.py --help                             what can be chosen
python run.py --cfg job | --info                 Hydra's answers about the config
"""

import argparse
import io
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import NoReturn

import hydra
from hydra._internal.utils import get_args_parser  # the only list of Hydra's flags
from hydra.errors import HydraException, InstantiationException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mcl_lab.config.check import check, check_hydra
from mcl_lab.config.compose import CONF, compose
from mcl_lab.config.multirun import compose_several
from mcl_lab.config.stored import resumed
from mcl_lab.config.sweeps import as_typed, expand, split_names
from mcl_lab.config.targets import SLURM, TRAIN
from mcl_lab.errors import InputError, Interrupted, RunFailed
from mcl_lab.host import last_words
from mcl_lab.host.output import lasting_output, missing_because, unattended
from mcl_lab.host.secrets import without_secrets
from mcl_lab.host.text import plain_text
from mcl_lab.terminal.help import help_text

SHELL_ACTIONS = ("install=", "uninstall=", "query=")  # Hydra's
LONGEST = 2000  # characters of an error's line


@lasting_output()
def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit status: 0 done, 2 wrong input, any other for what failed.

    It is carried out even when nobody can read what it prints.
    """
    # OpenMP's threads spin while they wait for each other, by default so long that next to another busy process (the sender,
    # a second run) a step takes several times as long; so few spins cost next to nothing. Read when PyTorch is imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    last_words.claim()
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        flags = parse(argv)
        overrides = search_path(flags) + flags.overrides
        several = flags.multirun or split_names(overrides)[0]
        if flags.help:
            print(help_text([Path(flags.config_dir)] if flags.config_dir else []))
        elif flags.cfg or flags.info or flags.hydra_help or flags.shell_completion:
            if split_names(overrides)[0]:
                raise InputError("sweeps", "names several runs; --cfg and its like are about one, leave it out")
            if not flags.shell_completion:
                check_hydra(compose(overrides))  # so that what is wrong is said in one line
            answer = complete if is_query(flags) else hand_over
            answer(in_order(argv, flags))
        elif several:
            run_several(argv, flags)
        else:
            config = checked(overrides)
            if is_for_slurm(config):
                refuse_slurm(config, "is for sweeps; for a job of one run add --multirun (-m)")
            run_one(config)
        if reason := missing_because():
            raise RunFailed(f"what was printed is not whole: {reason}")
    except InstantiationException as error:
        if not isinstance(error.__cause__, InputError | RunFailed):
            raise
        return report(error.__cause__)  # what a constructor refused
    except (InputError, RunFailed) as error:
        return report(error)
    except KeyboardInterrupt:
        print("mcl_lab: interrupted", file=sys.stderr)
        last_words.leave("interrupted")
        return 130
    return 0


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Hydra's flags and the overrides."""
    parser = get_args_parser()
    parser.error = refuse_flags  # type: ignore[method-assign]  # it exits, where it could be made no other class
    flags = parser.parse_intermixed_args(argv)
    for name in ("config_path", "config_name", "experimental_rerun"):
        if getattr(flags, name):
            flag = f"--{name.replace('_', '-')}"
            raise InputError(flag, "is not supported; to add YAML files use --config-dir=FOLDER")
    if sum(bool(flag) for flag in (flags.run, flags.multirun, flags.cfg, flags.info, flags.shell_completion)) > 1:
        raise InputError("command line", "holds more than one of --run, --multirun, --cfg, --info, --shell-completion")
    if flags.shell_completion and not any(word.startswith(SHELL_ACTIONS) for word in flags.overrides):
        raise InputError("--shell-completion", "needs install=SHELL, uninstall=SHELL or query=SHELL")
    if is_query(flags) and "COMP_LINE" not in os.environ:
        raise InputError(
            "--shell-completion", "query=SHELL is the shell's own question, with the typed line in COMP_LINE"
        )
    if (flags.package or flags.resolve) and not flags.cfg and not flags.help:
        raise InputError("--package" if flags.package else "--resolve", "goes with --cfg job")
    return flags


def is_query(flags: argparse.Namespace) -> bool:
    """Whether a shell asks what may follow, at the Tab key."""
    return bool(flags.shell_completion) and any(word.startswith("query=") for word in flags.overrides)


def in_order(argv: Sequence[str], flags: argparse.Namespace) -> list[str]:
    """Flags before overrides, as Hydra takes no override after a flag that follows one, and none of them as a flag's value."""
    return [word for word in argv if word != "--" and word not in flags.overrides] + ["--", *flags.overrides]


def refuse_flags(message: str) -> NoReturn:
    raise InputError("command line", f"{message}; all flags: python run.py --hydra-help")


def search_path(flags: argparse.Namespace) -> list[str]:
    """--config-dir as the override that does the same."""
    if flags.config_dir is None:
        return []
    if not os.path.isdir(flags.config_dir):
        raise InputError("--config-dir", f"{flags.config_dir} is not a folder")
    return [f"hydra.searchpath=[{as_typed(f'file://{Path(flags.config_dir).resolve()}')}]"]


def checked(overrides: Sequence[str]) -> DictConfig:
    """The config that a task gets, past the first stage of checking."""
    config = compose(overrides)
    check(config)
    return config if config.resume is None else resumed(config)


def run_several(argv: Sequence[str], flags: argparse.Namespace) -> None:
    """The runs of a sweep, all of them checked before the first starts: training by the launcher, what else they are one
    after the other."""
    names, others = split_names(flags.overrides)
    added = search_path(flags)
    config_dir = Path(flags.config_dir) if added else None
    configs = all_checked([[*added, *run] for run in expand(names, others, config_dir)])
    if all(config.task._target_ == TRAIN for config in configs):
        from mcl_lab.sweeping.launch import launch

        with unattended():
            launch(configs, name="_".join(names) or None, argv=argv, config_dir=config_dir)
        return
    for config in filter(is_for_slurm, configs):
        refuse_slurm(config, "submits either task=train or nothing")
    failed = []
    for config in configs:
        try:
            run_one(config)
        except Interrupted:
            raise
        except (InputError, RunFailed) as error:
            report(error)
            failed.append(error)
    if failed:
        raise RunFailed(f"{len(failed)} of {len(configs)} failed")


def is_for_slurm(config: DictConfig) -> bool:
    return OmegaConf.select(config, "hydra.launcher._target_") == SLURM


def refuse_slurm(config: DictConfig, message: str) -> None:
    other = "submits task=train alone; leave it out to do this here"
    raise InputError("hydra/launcher", message if config.task._target_ == TRAIN else other)


def all_checked(runs: Sequence[Sequence[str]]) -> list[DictConfig]:
    """As `checked`, for several runs, of which none may resume; raises what is wrong with the first that is wrong."""
    configs = []
    for config in compose_several(runs):
        check(config)
        if config.resume is not None:
            resumed(config)  # which may have more to say
            raise InputError("resume", "goes on with one run; leave --multirun (-m) out")
        configs.append(config)
    return configs


def run_one(config: DictConfig) -> None:
    """Call the task. Hydra's own way to run a job makes the run folder before the task can refuse its input."""
    with unattended() if config.task._target_ == TRAIN else nullcontext():
        task = hydra.utils.get_method(config.task._target_)
        task(config, **{name: option for name, option in config.task.items() if name != "_target_"})


def hand_over(argv: Sequence[str]) -> None:
    """Leave a question about the config to Hydra."""

    @hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
    def job(_: DictConfig) -> None: ...

    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises what it would print
    sys.argv = [str(CONF.parent / "run.py"), *argv]
    shown = io.StringIO()
    try:
        with redirect_stdout(shown):
            job()
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise InputError("config", str(error)) from error
    finally:
        print(without_secrets(shown.getvalue()), end="")


def complete(argv: Sequence[str]) -> None:
    """What may follow the line that the shell has in COMP_LINE; of a half-typed line that Hydra cannot read, nothing follows,
    and nothing is said in the middle of the user's typing."""
    with suppress(InputError, AssertionError, RuntimeError, SystemExit), redirect_stderr(io.StringIO()):
        hand_over(argv)


def report(error: InputError | RunFailed) -> int:
    """One line on stderr, and for whoever started this program; returns the exit status."""
    kind = "stopped" if isinstance(error, Interrupted) else "error"
    line = error_line(str(error))
    print(f"mcl_lab: {kind}: {line}", file=sys.stderr)
    last_words.leave(line)
    return error.status


def report_defect(*error) -> None:
    """What Python prints of an exception that nobody expected, without the secrets that may be in it."""
    print(without_secrets("".join(traceback.format_exception(*error))), end="", file=sys.stderr)
    last_words.leave(error_line("".join(traceback.format_exception_only(*error[:2]))))


def error_line(text: str) -> str:
    """An error as one line that may be shown, of a very long one the beginning and the end."""
    line = plain_text(without_secrets(" ".join(text.split())))
    return line if len(line) <= LONGEST else f"{line[: LONGEST // 2]} ... {line[-LONGEST // 2 :]}"
