"""Which `_target_`s a config may name, and where."""

import functools
import re
from collections.abc import Collection, Mapping

from mcl_lab.config.nearest import nearest
from mcl_lab.config.signatures import constant, find, source_file
from mcl_lab.errors import InputError
from mcl_lab.host.modules import PLUGINS_VARIABLE, plugins

TRAIN = "mcl_lab.tasks.train.train"
SLURM = "mcl_lab.launch.slurm.SlurmLauncher"

# One name after these and no more: `torch.nn.Linear` yes, `torch.nn.utils.x.y` no.
_SINGLE_NAME_PACKAGES = ("torch.optim", "torch.optim.lr_scheduler", "torch.nn", "torchvision.models")
# Those of a place that takes no others; what stands elsewhere, within an own class's arguments for one, may be of any.
_PACKAGES_OF = {
    "task": (),
    "data.images": (),
    "data.augmentation": (),
    "pair.peers.*": ("torchvision.models",),
    "loss.*": ("torch.nn",),
    "loss.weight_network": (),
    "loss.meta_event": (),
    "optimizer": ("torch.optim",),
    "schedule": ("torch.optim.lr_scheduler",),
}
# What a module of ours offers to configs, by the place of the node that may name it: `OFFERED = {"loss.*": ["Classification"]}`.
_OFFERED = "OFFERED"
_TASK = "task"  # of which each module in mcl_lab.tasks offers the function that has its name
_OF_HYDRA = (
    "hydra._internal.core_plugins.basic_launcher.BasicLauncher",
    "hydra._internal.core_plugins.basic_sweeper.BasicSweeper",
    "mcl_lab.launch.local.LocalLauncher",
    SLURM,
)


def check_target(key: str, target: object, place: str | None = None) -> None:
    """Refuse what a config must not name; `key` is the node that holds the `_target_`, `loss.classification`.

    Allowed: what a module of ours offers for the `place` of the node (`loss.*`, found by the key when not given), public names
    of the PyTorch packages that go with the place, and those of the packages listed in the environment variable
    MCL_LAB_PLUGINS; below `hydra` only its own launcher and sweeper, and our launchers. Raises InputError(KEY._target_).
    """
    name = f"{key}._target_"
    if not isinstance(target, str) or not re.fullmatch(r"[A-Za-z]\w*(\.\w+)+", target):
        raise InputError(name, f"must be the dotted name of a class or function, not {target!r}")
    if key.split(".")[0] == "hydra":
        if target not in _OF_HYDRA:
            raise InputError(name, f"{target} is not allowed; below hydra only the launchers of mcl_lab are")
        return
    place = place or place_of(key)
    package, _, last = target.rpartition(".")
    top = target.partition(".")[0]
    others = _PACKAGES_OF.get(place, _SINGLE_NAME_PACKAGES)
    is_offered = last in _offered_by(package).get(place, ()) or top in plugins() or package in others
    if is_offered and not any(part.startswith("_") for part in target.split(".")):
        return
    ours = offered(place)
    is_missing = top == "mcl_lab" and find(package, last) is None
    if is_missing and (meant := nearest(target, ours)):
        raise InputError(name, f"{target} does not exist{meant}")
    right = [
        ", ".join(ours),
        f"public names of {', '.join(others)}" if others else "",
        f"those of the packages listed in the environment variable {PLUGINS_VARIABLE}",
    ]
    listed = "; ".join(filter(None, right))
    wrong = "does not exist" if is_missing else "is not allowed here"
    raise InputError(name, f"{target} {wrong}; allowed are: {listed}")


def place_of(key: str) -> str:
    """The place of a node: `pair.peers.*` of a peer, `loss.*` of a term, else its key."""
    parent = key.rpartition(".")[0]
    own = parent not in ("loss", "pair.peers") or key in ("loss.weight_network", "loss.meta_event")
    return key if own else f"{parent}.*"


@functools.cache
def offered(place: str) -> list[str]:
    """What our own modules offer for a place, by full names."""
    package = source_file("mcl_lab")
    assert package is not None
    files = sorted(
        file for file in package.parent.rglob("*.py") if place == _TASK or _OFFERED in file.read_text("utf-8")
    )
    modules = [".".join(file.relative_to(package.parents[1]).with_suffix("").parts) for file in files]
    return [f"{module}.{name}" for module in modules for name in _offered_by(module).get(place, ())]


def _offered_by(module: str) -> Mapping[str, Collection[str]]:
    if task := re.fullmatch(r"mcl_lab\.tasks\.([a-z]\w*)", module):
        return {_TASK: [task[1]]}
    found = constant(module, _OFFERED) if module.startswith("mcl_lab.") else None
    return found if isinstance(found, dict) else {}
