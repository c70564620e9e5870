"""Which `_target_`s a config may name, and what they take, read from their source without importing or running it."""

import ast
import functools
import importlib.util
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mcl_lab.config.nearest import nearest
from mcl_lab.errors import InputError

TRAIN = "mcl_lab.tasks.train.train"
SLURM = "mcl_lab.launch.slurm.SlurmLauncher"
PLUGINS_VARIABLE = "MCL_LAB_PLUGINS"

# One name after these and no more: `torch.nn.Linear` yes, `torch.nn.utils.x.y` no.
_SINGLE_NAME_PACKAGES = ("torch.optim", "torch.optim.lr_scheduler", "torch.nn", "torchvision.models")
_CLASS_PACKAGES = ("torch.optim", "torch.optim.lr_scheduler", "torch.nn")
# Of our own code the rooms whose classes and functions make what a run consists of, and do nothing else: others run programs,
# and write and delete files.
_ROOMS = tuple(f"mcl_lab.{room}." for room in ("networks", "losses", "meta", "data", "training"))
_TASK = re.compile(r"mcl_lab\.tasks\.(\w+)\.\1")
_OF_HYDRA = (
    "hydra._internal.core_plugins.basic_launcher.BasicLauncher",
    "hydra._internal.core_plugins.basic_sweeper.BasicSweeper",
    "mcl_lab.launch.local.LocalLauncher",
    SLURM,
)


@dataclass(frozen=True)
class Signature:
    """What a class or function takes.

    parameters: the annotation of each by name, None without one. required: those without a default.
    accepts_any: it has `**kwargs`. attributes: the class attributes that are literals, inherited ones too.
    """

    parameters: dict[str, ast.expr | None]
    required: frozenset[str]
    accepts_any: bool
    attributes: dict[str, object]


def check_target(key: str, target: object) -> None:
    """Refuse what a config must not name; `key` is the node that holds the `_target_`, `loss.classification`.

    Allowed: what a run consists of, in our own code (as the task the function of a module in mcl_lab.tasks that has its name,
    and nothing else), classes of torch.optim, its lr_scheduler and torch.nn, functions and classes of torchvision.models, the
    packages listed in the environment variable MCL_LAB_PLUGINS; below `hydra` only its own launcher and sweeper, and our
    launchers. Raises InputError(KEY._target_).
    """
    name = f"{key}._target_"
    if not isinstance(target, str) or not re.fullmatch(r"[A-Za-z]\w*(\.\w+)+", target):
        raise InputError(name, f"must be the dotted name of a class or function, not {target!r}")
    if key.split(".")[0] == "hydra":
        if target not in _OF_HYDRA:
            raise InputError(name, f"{target} is not allowed; below hydra only the launchers of mcl_lab are")
        return
    top, package = target.split(".")[0], target.rpartition(".")[0]
    if key == "task":
        ours, places = bool(_TASK.fullmatch(target)), "mcl_lab.tasks"
    else:
        ours = target.startswith(_ROOMS) or package in _SINGLE_NAME_PACKAGES
        places = ", ".join([*(room.rstrip(".") for room in _ROOMS), *_SINGLE_NAME_PACKAGES])
    if not ours and top not in plugins() or any(part.startswith("_") for part in target.split(".")):
        raise InputError(
            name,
            f"{target} is not allowed; allowed are public names of {places} and of the packages "
            f"listed in the environment variable {PLUGINS_VARIABLE}",
        )


def signature_of(key: str, target: str) -> Signature:
    """What an allowed `target` takes. Raises InputError(KEY._target_) when there is no such class or function."""
    package, _, name = target.rpartition(".")
    found = _find(package, name)
    if found is None:
        top = target.partition(".")[0]
        if importlib.util.find_spec(top) is None:
            raise InputError(f"{key}._target_", f"there is no package {top}; put the folder it lies in into PYTHONPATH")
        raise InputError(f"{key}._target_", f"{target} does not exist{nearest(target, _neighbours(package))}")
    module, definition = found
    # A name that a module merely imports from elsewhere would get past the list of allowed packages.
    outside = module.split(".")[0] != target.split(".")[0]
    if outside or package in _CLASS_PACKAGES and not isinstance(definition, ast.ClassDef):
        raise InputError(f"{key}._target_", f"{target} is not a class of {package}")
    if not isinstance(definition, ast.ClassDef):
        return _signature(definition.args, bound=0, attributes={})
    lineage = list(_lineage(module, definition))
    attributes = {}
    for ancestor in reversed(lineage):
        attributes |= _literals(ancestor)
    for ancestor in lineage:
        for statement in ancestor.body:
            if isinstance(statement, ast.FunctionDef) and statement.name == "__init__":
                return _signature(statement.args, bound=1, attributes=attributes)
        if any("dataclass" in ast.unparse(decorator) for decorator in ancestor.decorator_list):
            return _dataclass_signature(ancestor, attributes)
    return Signature({}, frozenset(), False, attributes)


def plugins() -> set[str]:
    """The packages whose classes a config may name besides ours."""
    return {name.strip() for name in os.environ.get(PLUGINS_VARIABLE, "").split(",") if name.strip()}


def _signature(arguments: ast.arguments, *, bound: int, attributes: dict[str, object]) -> Signature:
    positional = arguments.posonlyargs + arguments.args
    with_default = positional[len(positional) - len(arguments.defaults) :] + arguments.kwonlyargs
    values = arguments.defaults + arguments.kw_defaults
    defaults = {arg.arg: value for arg, value in zip(with_default, values, strict=True) if value is not None}
    parameters = {arg.arg: arg.annotation for arg in positional[bound:] + arguments.kwonlyargs}
    for name, default in defaults.items():
        if name in parameters and parameters[name] is not None and ast.unparse(default) == "None":
            parameters[name] = ast.BinOp(parameters[name], ast.BitOr(), ast.Constant(None))
    required = frozenset(parameters.keys() - defaults.keys())
    return Signature(parameters, required, arguments.kwarg is not None, attributes)


def _dataclass_signature(definition: ast.ClassDef, attributes: dict[str, object]) -> Signature:
    fields = [statement for statement in definition.body if isinstance(statement, ast.AnnAssign)]
    parameters = {field.target.id: field.annotation for field in fields}
    required = frozenset(field.target.id for field in fields if field.value is None)
    return Signature(parameters, required, False, attributes)


def _literals(definition: ast.ClassDef) -> dict[str, object]:
    values = {}
    for statement in definition.body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            try:
                values[statement.targets[0].id] = ast.literal_eval(statement.value)
            except ValueError:
                continue  # not a literal
    return values


def _lineage(module: str, definition: ast.ClassDef) -> Iterator[ast.ClassDef]:
    """The class and its bases, depth first, as far as they are defined in the same top-level package."""
    yield definition
    for base in definition.bases:
        found = _find(module, base.id) if isinstance(base, ast.Name) else None
        if found and isinstance(found[1], ast.ClassDef) and found[0].split(".")[0] == module.split(".")[0]:
            yield from _lineage(*found)


def _find(module: str, name: str, seen: frozenset = frozenset()):
    """(module, definition) of a top-level class or function, followed through re-exports; None when there is none."""
    path = _source_file(module)
    if path is None or (module, name) in seen:
        return None
    seen = seen | {(module, name)}
    stars = []
    for statement in _statements(path):
        if isinstance(statement, ast.ClassDef | ast.FunctionDef) and statement.name == name:
            return module, statement
        if isinstance(statement, ast.ImportFrom):
            source = _absolute(module, path, statement)
            for alias in statement.names:
                if alias.name == "*":
                    stars.append(source)
                elif (alias.asname or alias.name) == name and (found := _find(source, alias.name, seen)):
                    return found
    for source in stars:
        if found := _find(source, name, seen):
            return found
    return None


def _absolute(module: str, path: Path, statement: ast.ImportFrom) -> str:
    if not statement.level:
        return statement.module
    parts = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    parts = parts[: len(parts) - statement.level + 1]
    return ".".join([*parts, *([statement.module] if statement.module else [])])


@functools.lru_cache
def _statements(path: Path) -> list[ast.stmt]:
    """The top-level statements, those of `if` and `try` blocks too."""
    pending, statements = list(ast.parse(path.read_text(encoding="utf-8")).body), []
    while pending:
        statement = pending.pop(0)
        statements.append(statement)
        if isinstance(statement, ast.If | ast.Try):
            pending = [*statement.body, *statement.orelse, *pending]
    return statements


def _source_file(module: str) -> Path | None:
    top, *rest = module.split(".")
    spec = importlib.util.find_spec(top)  # of a top-level name: looks for it, imports nothing
    if spec is None:
        return None
    if not rest:
        return Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None
    for location in spec.submodule_search_locations or []:
        stem = Path(location, *rest)
        for path in (stem / "__init__.py", stem.with_name(stem.name + ".py")):
            if path.is_file():
                return path
    return None


def _neighbours(package: str) -> list[str]:
    """Full names near a target that does not exist: the public ones of its module, or the modules beside it."""
    path = _source_file(package)
    if path is None:
        parent, _, module = package.rpartition(".")
        folder = _source_file(parent) if parent else None
        siblings = sorted(folder.parent.glob("*.py")) if folder else []
        closest = nearest(module, [sibling.stem for sibling in siblings], wording="{}")
        return _neighbours(f"{parent}.{closest}") if closest else []
    names = []
    for statement in _statements(path):
        if isinstance(statement, ast.ClassDef | ast.FunctionDef):
            names.append(statement.name)
        elif isinstance(statement, ast.ImportFrom):
            names += [alias.asname or alias.name for alias in statement.names]
    return [f"{package}.{name}" for name in names if not name.startswith("_")]
