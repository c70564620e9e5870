"""The house of CONTRIBUTING.md: which room may import which, and who may know what of other packages."""

import ast
import functools
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

HOUSE = Path(__file__).resolve().parents[1]
PACKAGE = HOUSE / "mcl_lab"

CELLAR = ("errors", "host")
GROUND = ("config", "data", "distributed", "losses", "meta", "networks", "training")
MEZZANINE = ("runs",)
UPSTAIRS = ("assembly", "export", "launch", "results", "sweeping", "terminal", "tracking")
ROOF = ("tasks",)
BELOW = {
    "errors": (),
    "host": ("errors",),
    **dict.fromkeys(GROUND, CELLAR),
    "runs": ("config", *CELLAR),
    **dict.fromkeys(UPSTAIRS, (*CELLAR, *GROUND, *MEZZANINE, *UPSTAIRS)),
    "tasks": (*CELLAR, *GROUND, *MEZZANINE, *UPSTAIRS),
    "cli": (*CELLAR, *GROUND, *MEZZANINE, *UPSTAIRS),
    "mcl_lab": ("export",),
    "run": ("cli", "host"),
}
KNOWN_BY = {
    "mlflow": ("tracking",),
    "submitit": ("launch",),
    "torch.distributed": ("distributed",),
    "matplotlib": ("results",),
    "rich": ("host", "terminal", "assembly", "sweeping", "tasks"),
}
SCIENCE = ("data", "losses", "meta", "networks", "training")
NOT_FOR_SCIENCE = ("hydra", "omegaconf", *KNOWN_BY)
LIGHT = ("cli", "config", "launch", "sweeping")
BY_NAME = ("mcl_lab.tracking.mlflow_calls",)  # may import what a string names
HEAVY = ("torch", "torchvision", "mlflow", "matplotlib", "sklearn", "numpy")


def modules(package: Path = PACKAGE) -> dict[str, Path]:
    """Every module by its dotted name."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found | {"run": package.parent / "run.py"}


def room_of(module: str) -> str:
    """The room that a module is in; of one at the top its own name."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else parts[0]


@functools.cache
def imports(path: Path, *, only_at_once: bool = False) -> list[str]:
    """The dotted names that a module imports, those within functions too unless `only_at_once`: of `from a import b` both `a`
    and `a.b`. What only a type checker sees is left out."""
    return list(_imports(ast.parse(path.read_text(encoding="utf-8")), path, only_at_once))


def _imports(tree: ast.Module, path: Path, only_at_once: bool) -> Iterator[str]:
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if only_at_once and isinstance(node, ast.FunctionDef):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{path}, line {node.lineno}: a relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        pending.extend(ast.iter_child_nodes(node))


def arrows(found: dict[str, Path]) -> set[tuple[str, str]]:
    """(module, module that it imports) within the package."""
    return {
        (name, other) for name, path in found.items() for other in imports(path) if other in found and other != name
    }


def forbidden(found: dict[str, Path]) -> list[str]:
    """Arrows that the plan does not have."""
    rooms = {(name, other, room_of(name), room_of(other)) for name, other in arrows(found)}
    return sorted(
        f"{name} -> {other}"
        for name, other, here, there in rooms
        if there not in ("mcl_lab", here) and there not in BELOW[here] or there == here == "tasks"
    )


def know_too_much(found: dict[str, Path]) -> list[str]:
    """Modules that import a package that their room must not know."""
    wrong = []
    for name, path in found.items():
        room = room_of(name)
        text = path.read_text(encoding="utf-8")
        if name not in BY_NAME and any(word in text for word in ("import_module(", "__import__(")):
            wrong.append(f"{name} imports by a string")
        banned = {package for package, rooms in KNOWN_BY.items() if room not in rooms}
        banned |= set(NOT_FOR_SCIENCE) if room in SCIENCE else set()
        banned |= set(HEAVY) if room in LIGHT else set()
        known = {other for other in imports(path) for package in banned if f"{other}.".startswith(f"{package}.")}
        wrong += [f"{name} imports {other}" for other in sorted(known)]
    return wrong


def imported_at_once(start: str, found: dict[str, Path]) -> dict[str, list[str]]:
    """The modules that importing `start` imports, each with the names from outside that it imports itself."""
    seen, pending = {}, [start]
    while pending:
        name = pending.pop()
        if name not in seen and name in found:
            names = imports(found[name], only_at_once=True)
            seen[name] = [other for other in names if not other.startswith("mcl_lab")]
            pending += [other for other in names if other in found]
    return seen


def test_every_arrow_is_on_the_plan():
    found = modules()
    assert {room_of(name) for name in found} <= BELOW.keys()
    assert not forbidden(found)


def circles(found: dict[str, Path]) -> list[list[str]]:
    """A circle of rooms and one of modules, if there are any."""
    between_modules = arrows(found)
    between_rooms = {(room_of(name), room_of(other)) for name, other in between_modules}
    closed = []
    for pairs in (between_rooms, between_modules):
        graph: dict[str, set[str]] = {}
        for start, end in pairs:
            if start != end:
                graph.setdefault(start, set()).add(end)
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            closed.append(error.args[1])
    return closed


def test_nothing_imports_in_a_circle():
    assert not circles(modules())


def test_packages_are_known_where_they_belong():
    assert not know_too_much(modules())


@pytest.mark.parametrize("start", ["mcl_lab", "mcl_lab.cli", "mcl_lab.sweeping.launch", "mcl_lab.tracking.sender"])
def test_composing_checking_and_submitting_import_nothing_that_takes_seconds(start):
    outside = imported_at_once(start, modules())
    heavy = {name: [other for other in others if other.split(".")[0] in HEAVY] for name, others in outside.items()}
    assert not {name: others for name, others in heavy.items() if others}


def test_the_command_line_draws_nothing_before_it_has_to():
    """Importing rich takes a tenth of the time in which a wrong setting is refused."""
    outside = imported_at_once("mcl_lab.cli", modules())
    assert not [name for name, others in outside.items() if any(other.split(".")[0] == "rich" for other in others)]


def test_tasks_holds_what_task_names_and_nothing_else():
    files = {path.stem for path in (PACKAGE / "tasks").glob("*.py")} - {"__init__"}
    assert files == {path.stem for path in (HOUSE / "conf" / "task").glob("*.yaml")}


@pytest.mark.parametrize(
    ("module", "text", "said"),
    [
        ("networks/resnet.py", "from mcl_lab.losses import term", "mcl_lab.networks.resnet -> mcl_lab.losses"),
        ("host/files.py", "def f():\n    import mcl_lab.runs.lock", "mcl_lab.host.files -> mcl_lab.runs.lock"),
        ("runs/lock.py", "from mcl_lab.tracking.sender import main", "mcl_lab.runs.lock -> mcl_lab.tracking.sender"),
        ("tasks/train.py", "from mcl_lab.tasks.sync import sync", "mcl_lab.tasks.train -> mcl_lab.tasks.sync"),
        ("losses/term.py", "import omegaconf", "mcl_lab.losses.term imports omegaconf"),
        ("terminal/sweep.py", "from mlflow import client", "mcl_lab.terminal.sweep imports mlflow"),
        ("training/step.py", "import torch.distributed.nn", "mcl_lab.training.step imports torch.distributed.nn"),
        ("training/step.py", "def f():\n    import matplotlib", "mcl_lab.training.step imports matplotlib"),
        ("training/step.py", "from rich import box", "mcl_lab.training.step imports rich"),
        ("config/plain.py", "def f():\n    import torch", "mcl_lab.config.plain imports torch"),
        (
            "training/trainer.py",
            "import importlib\nimportlib.import_module('mcl_lab.tracking.mlflow.store')",
            "mcl_lab.training.trainer imports by a string",
        ),
    ],
)
def test_a_wrong_import_is_found(module, text, said, tmp_path):
    """As if a file said so."""
    path = tmp_path / Path(module).name
    path.write_text(text)
    name = f"mcl_lab.{module.removesuffix('.py').replace('/', '.')}"
    found = modules() | {name: path}
    assert any(said in line for line in [*forbidden(found), *know_too_much(found)])


def test_the_door_leads_to_the_command_line(tmp_path):
    path = tmp_path / "run.py"
    path.write_text("import mlflow\nfrom mcl_lab.tasks.train import train")
    found = modules() | {"run": path}
    assert "run imports mlflow" in know_too_much(found)
    assert any(line.startswith("run -> mcl_lab.tasks.train") for line in forbidden(found))


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("launch/devices.py", "from mcl_lab.sweeping import sweep"),
        ("config/plain.py", "def f():\n    from mcl_lab.config.check import check"),
    ],
)
def test_a_circle_is_found(module, text, tmp_path):
    path = tmp_path / Path(module).name
    path.write_text(text)
    assert circles(modules() | {f"mcl_lab.{module.removesuffix('.py').replace('/', '.')}": path})
