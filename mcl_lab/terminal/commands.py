"""Commands that come next, as a person would type them from here."""

import os
import shlex
import sys
from pathlib import Path

from omegaconf import DictConfig

from mcl_lab.config.compose import CONF, compose, overrides
from mcl_lab.config.sweeps import as_typed
from mcl_lab.errors import InputError
from mcl_lab.host.modules import PLUGINS_VARIABLE
from mcl_lab.runs.folders import sweep_folder


def command_line(*arguments: str) -> str:
    """A command line of this program, as a person would type it from here; in another shell the plugins would not be known."""
    needed = [
        name for name in (PLUGINS_VARIABLE, "PYTHONPATH") if os.environ.get(PLUGINS_VARIABLE) and os.environ.get(name)
    ]
    variables = [f"{name}={shlex.quote(os.environ[name])}" for name in needed]
    return " ".join([*variables, shlex.join([relative(sys.executable), relative(sys.argv[0]), *arguments])])


def baseline_command(config: DictConfig, key: str, network: str) -> str | None:
    """The command that trains peer `key`, a `network`, alone by this run's recipe; None when options do not say what that is, or
    are not here."""
    single = [f"pair=single/{network}"]
    if not (CONF / "pair" / "single" / f"{network}.yaml").exists():
        option = config.hydra.runtime.choices.get(f"network@pair.peers.{key}")
        if option is None:
            return None
        single = ["pair=single/resnet32", f"network@pair.peers.a={option}"]
    own = ("pair", "loss", "network", "hydra", "resume", "sweep", "task", "tracking.")
    kept = [word for word in overrides(config) if not word.lstrip("+~").startswith(own)]
    peer = f"pair.peers.{key}."
    kept += [word.replace(peer, "pair.peers.a.") for word in overrides(config) if word.lstrip("+~").startswith(peer)]
    words, places = [*kept, *single, "loss=baseline"], list(config.hydra.searchpath)
    search_path = [f"hydra.searchpath=[{','.join(map(as_typed, places))}]"] if places else []
    try:
        compose([*search_path, *words])
    except InputError:
        return None
    one_folder = [f"--config-dir={relative(places[0].removeprefix('file://'))}"] if len(places) == 1 else search_path
    return command_line(*one_folder, *words)


def named(folder: Path) -> str:
    """The setting that names a sweep, as short as it can be."""
    if folder == sweep_folder(folder.name, Path("runs")):
        return f"task.sweep={as_typed(folder.name)}"
    return f"task.sweep={as_typed(os.path.join(folder.parent, folder.name))}"  # with a slash: a path, no name


def relative(path: str) -> str:
    """As a person would type it from here."""
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else relative
