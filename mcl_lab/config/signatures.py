"""What classes and functions take, read from their source without importing or running it."""

import ast
import functools
import importlib.util
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mcl_lab.config.nearest import nearest
from mcl_lab.config.values import is_later
from mcl_lab.errors import InputError

_CLASS_PACKAGES = ("torch.optim", "torch.optim.lr_scheduler", "torch.nn")
_WITHOUT_LATER = ("torch.", "torchvision.")  # which know nothing of our marks
Definition = ast.ClassDef | ast.FunctionDef


@dataclass(frozen=True)
class Signature:
    """What a class or function takes.

    parameters: the annotation of each by name, None without one. required: those without a default. later: those marked as
    added later, with their defaults. accepts_any: it has `**kwargs`. attributes: the class attributes that are literals,
    inherited ones too.
    """

    parameters: Mapping[str, ast.expr | None]
    required: frozenset[str]
    later: Mapping[str, object]
    accepts_any: bool
    attributes: Mapping[str, object]


def signature_of(key: str, target: str) -> Signature:
    """What `target` takes. Raises InputError(KEY._target_) when there is no such class or function, or it cannot be read."""
    package, _, name = target.rpartition(".")
    try:
        found = find(package, name)
        if found is None:
            raise InputError(f"{key}._target_", _is_missing(target, package))
        module, definition = found
        # A name that a module merely imports from elsewhere would get past the list of allowed packages.
        outside = module.split(".")[0] != target.split(".")[0]
        if outside or package in _CLASS_PACKAGES and not isinstance(definition, ast.ClassDef):
            raise InputError(f"{key}._target_", f"{target} is not a class of {package}")
        return _signature_of(module, definition)
    except (SyntaxError, ValueError, OSError) as error:  # of somebody's own package
        raise InputError(f"{key}._target_", f"the source of {target} cannot be read: {error}") from error


def later_arguments(target: object) -> Mapping[str, object]:
    """The arguments of a class or function that are marked as added later, with their defaults; none of what cannot be found."""
    if not isinstance(target, str) or target.startswith(_WITHOUT_LATER):
        return {}
    return _later_of_ours(target) if target.startswith("mcl_lab.") else _later(target)


def constant(module: str, name: str) -> object:
    """The literal that a module has by that name at its top; None when it has none."""
    path = source_file(module)
    for statement in _statements(path) if path else ():
        if isinstance(statement, ast.Assign) and getattr(statement.targets[0], "id", "") == name:
            return ast.literal_eval(statement.value)
    return None


def find(module: str, name: str, seen: frozenset[tuple[str, str]] = frozenset()) -> tuple[str, Definition] | None:
    """(module, definition) of a top-level class or function, followed through re-exports; None when there is none."""
    path = source_file(module)
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
                elif (alias.asname or alias.name) == name and (found := find(source, alias.name, seen)):
                    return found
    for source in stars:
        if found := find(source, name, seen):
            return found
    return None


def source_file(module: str) -> Path | None:
    """The file of a module or package; None when there is none with a source."""
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


def _later(target: str) -> Mapping[str, object]:
    try:
        return signature_of("", target).later
    except InputError:
        return {}


_later_of_ours = functools.cache(_later)  # our own files stay as they are


@functools.lru_cache(maxsize=1000)
def _signature_of(module: str, definition: Definition) -> Signature:
    if not isinstance(definition, ast.ClassDef):
        return _of_arguments(definition.args, bound=0, attributes={})
    lineage = list(_lineage(module, definition))
    attributes: dict[str, object] = {}
    for ancestor in reversed(lineage):
        attributes |= _literals(ancestor)
    for ancestor in lineage:
        for statement in ancestor.body:
            if isinstance(statement, ast.FunctionDef) and statement.name == "__init__":
                return _of_arguments(statement.args, bound=1, attributes=attributes)
        if any("dataclass" in ast.unparse(decorator) for decorator in ancestor.decorator_list):
            return _of_dataclass(ancestor, attributes)
    return Signature({}, frozenset(), {}, False, attributes)


def _of_arguments(arguments: ast.arguments, *, bound: int, attributes: Mapping[str, object]) -> Signature:
    positional = arguments.posonlyargs + arguments.args
    with_default = positional[len(positional) - len(arguments.defaults) :] + arguments.kwonlyargs
    values = [*arguments.defaults, *arguments.kw_defaults]
    defaults = {arg.arg: value for arg, value in zip(with_default, values, strict=True) if value is not None}
    parameters = {arg.arg: arg.annotation for arg in positional[bound:] + arguments.kwonlyargs}
    for name, default in defaults.items():
        annotation = parameters.get(name)
        if annotation is not None and ast.unparse(default) == "None":
            parameters[name] = ast.BinOp(annotation, ast.BitOr(), ast.Constant(None))
    return _signature(parameters, defaults, arguments.kwarg is not None, attributes)


def _of_dataclass(definition: ast.ClassDef, attributes: Mapping[str, object]) -> Signature:
    fields = [statement for statement in definition.body if isinstance(statement, ast.AnnAssign)]
    named = {field.target.id: field for field in fields if isinstance(field.target, ast.Name)}
    defaults = {name: field.value for name, field in named.items() if field.value is not None}
    return _signature({name: field.annotation for name, field in named.items()}, defaults, False, attributes)


def _signature(
    parameters: Mapping[str, ast.expr | None],
    defaults: Mapping[str, ast.expr],
    accepts_any: bool,
    attributes: Mapping[str, object],
) -> Signature:
    later = dict(_literal_values((name, value) for name, value in defaults.items() if is_later(parameters.get(name))))
    return Signature(parameters, frozenset(parameters.keys() - defaults.keys()), later, accepts_any, attributes)


def _literals(definition: ast.ClassDef) -> dict[str, object]:
    assigned = [statement for statement in definition.body if isinstance(statement, ast.Assign)]
    named = [(statement.targets[0], statement.value) for statement in assigned]
    return dict(_literal_values((target.id, value) for target, value in named if isinstance(target, ast.Name)))


def _literal_values(named: Iterable[tuple[str, ast.expr]]) -> Iterator[tuple[str, object]]:
    """Those of the named expressions that are literals."""
    for name, value in named:
        with suppress(ValueError):
            yield name, ast.literal_eval(value)


def _lineage(module: str, definition: ast.ClassDef) -> Iterator[ast.ClassDef]:
    """The class and its bases, depth first, as far as they are defined in the same top-level package."""
    yield definition
    for base in definition.bases:
        where, found = isinstance(base, ast.Name) and find(module, base.id) or ("", None)
        if isinstance(found, ast.ClassDef) and where.split(".")[0] == module.split(".")[0]:
            yield from _lineage(where, found)


def _absolute(module: str, path: Path, statement: ast.ImportFrom) -> str:
    if not statement.level:
        return statement.module or ""
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


def _is_missing(target: str, package: str) -> str:
    top = target.partition(".")[0]
    if importlib.util.find_spec(top) is None:
        return f"there is no package {top}; put the folder it lies in into PYTHONPATH"
    return f"{target} does not exist{nearest(target, _neighbours(package))}"


def _neighbours(package: str) -> list[str]:
    """Full names near a target that does not exist: the public ones of its module, or the modules beside it."""
    path = source_file(package)
    if path is None:
        parent, _, module = package.rpartition(".")
        folder = source_file(parent) if parent else None
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
