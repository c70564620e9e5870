"""Plain values against annotations, both as read from source: `int | None`, `Annotated[float, "> 0"]`, `Literal[...]`.

One vocabulary for the config's own schema and for the classes it names. An annotation that means nothing to a config
(a type variable, an alias) accepts anything; `Tensor` accepts nothing, since no config can hold one.
"""

import ast
import functools
import operator
import re
import sys
from typing import Any

from mcl_lab.errors import InputError

_NAMES = {
    "int": "an integer",
    "float": "a number",
    "str": "a string",
    "bool": "true or false",
    "list": "a list",
    "tuple": "a list",
    "Sequence": "a list",
    "dict": "a mapping",
    "Mapping": "a mapping",
}
_PLURALS = {"an integer": "integers", "a number": "numbers", "a string": "strings", "a list": "lists"}
_LATER = "later"
_RANGE = re.compile(r"(>=?|<=?) *(-?[\d.]+)|([\[(])(-?[\d.]+), (-?[\d.]+)([\])])")
_COMPARISONS = {
    ">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le,
    "[": operator.ge, "(": operator.gt, "]": operator.le, ")": operator.lt,
}  # fmt: skip


def check_value(key: str, value: object, annotation: ast.expr | str | None, within: str | None = None) -> None:
    """Raise InputError(key) when a plain value is not of the annotated type or range.

    A bool is no integer, an integer (of 64 bits) is a number, NaN and infinity are none. `within` is a range for
    annotations that carry none. Ranges are `> 0`, `>= 0`, `[0, 1)` and so on, of every number in the value, and
    `not empty` of a string.
    """
    if isinstance(annotation, str):
        annotation = _parsed(annotation)
    if annotation is None or accepts(value, annotation) and _in_range(value, within):
        return
    raise InputError(key, f"must be {describe(annotation, within)}, not {_shown(value)}")


def accepts(value: Any, annotation: ast.expr) -> bool:
    """Whether a plain value is of the annotated type and range."""
    match annotation:
        case ast.Constant(value=None):
            return value is None
        case ast.Constant(value=str(text)):
            return accepts(value, _parsed(text))
        case ast.BinOp(op=ast.BitOr()):
            return any(accepts(value, member) for member in _members(annotation))
        case ast.Subscript(slice=inner):
            return _accepts_generic(value, _last_name(annotation.value), inner)
    return _accepts_name(value, _last_name(annotation))


def is_later(annotation: ast.expr | None) -> bool:
    """Whether an annotation is marked "later", `Annotated[float, "[0, 1)", "later"] = 0.0`: an argument that was added when
    there were stored runs already. Its default, a literal, means what was before, and is not in the run key."""
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        annotation = _parsed(annotation.value)
    parts = (part for part in ast.walk(annotation) if isinstance(part, ast.Subscript)) if annotation else ()
    return any(_last_name(part.value) == "Annotated" and _LATER in _literals(part.slice) for part in parts)


def describe(annotation: ast.expr, within: str | None = None) -> str:
    """An annotation in words: `an integer >= 1 or null`; `within`: a range that it does not carry itself."""
    if within:
        return f"{describe(annotation)} {_range_words(within)}"
    match annotation:
        case ast.Constant(value=None):
            return "null"
        case ast.Constant(value=str(text)):
            return describe(_parsed(text))
        case ast.BinOp(op=ast.BitOr()):
            words = [describe(member) for member in _members(annotation) if _last_name(member) != "Tensor"]
            return " or ".join(dict.fromkeys(words))
        case ast.Subscript(slice=inner):
            return _describe_generic(_last_name(annotation.value), inner)
    return _NAMES.get(_last_name(annotation), ast.unparse(annotation))


@functools.lru_cache
def _parsed(annotation: str) -> ast.expr:
    return ast.parse(annotation, mode="eval").body


def _accepts_generic(value: Any, name: str, inner: ast.expr) -> bool:
    parts = inner.elts if isinstance(inner, ast.Tuple) else [inner]
    match name:
        case "Annotated":
            return accepts(value, parts[0]) and all(_in_range(value, text) for text in _literals(inner))
        case "Literal":
            return any(type(value) is type(literal) and value == literal for literal in _literals(inner))
        case "Optional":
            return value is None or accepts(value, inner)
        case "Union":
            return any(accepts(value, part) for part in parts)
        case "tuple" if len(parts) > 1 and ast.unparse(parts[1]) != "...":
            whole = isinstance(value, list) and len(value) == len(parts)
            return whole and all(accepts(item, part) for item, part in zip(value, parts, strict=True))
        case "tuple" | "list" | "Sequence" | "Iterable":
            return isinstance(value, list) and all(accepts(item, parts[0]) for item in value)
        case "dict" | "Mapping":
            return isinstance(value, dict) and all(accepts(item, parts[-1]) for item in value.values())
    return True


def _accepts_name(value: object, name: str) -> bool:
    match name:
        case "int":
            return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
        case "float":
            # The comparison is false for NaN, and unlike math.isfinite takes integers of any size.
            return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
        case "str":
            return isinstance(value, str)
        case "bool":
            return isinstance(value, bool)
        case "list" | "tuple" | "Sequence":
            return isinstance(value, list)
        case "dict" | "Mapping":
            return isinstance(value, dict)
        case "Tensor":
            return False
    return True


def _describe_generic(name: str, inner: ast.expr) -> str:
    parts = inner.elts if isinstance(inner, ast.Tuple) else [inner]
    match name:
        case "Annotated":
            return " ".join([describe(parts[0]), *filter(None, map(_range_words, _literals(inner)))])
        case "Literal":
            return "one of " + ", ".join(map(str, _literals(inner)))
        case "Optional":
            return f"{describe(inner)} or null"
        case "Union":
            return " or ".join(describe(part) for part in parts)
        case "tuple" if len(parts) > 1 and ast.unparse(parts[1]) != "...":
            return f"a list of {len(parts)} {_plural(describe(parts[0]))}"
        case "tuple" | "list" | "Sequence" | "Iterable":
            return f"a list of {_plural(describe(parts[0]))}"
    return _NAMES.get(name, name)


def _members(union: ast.expr) -> list[ast.expr]:
    if isinstance(union, ast.BinOp):
        return _members(union.left) + _members(union.right)
    return [union]


def _last_name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def _literals(inner: ast.expr) -> list[object]:
    """The constants between the brackets of an annotation."""
    return [part.value for part in getattr(inner, "elts", [inner]) if isinstance(part, ast.Constant)]


def _in_range(value: Any, text: object) -> bool:
    if isinstance(value, list):
        return all(_in_range(item, text) for item in value)
    if text == "not empty":
        return value != ""
    found = _RANGE.fullmatch(text) if isinstance(text, str) else None
    if found is None or value is None:
        return True
    sign, bound, opening, low, high, closing = found.groups()
    if sign:
        return _COMPARISONS[sign](value, float(bound))
    return _COMPARISONS[opening](value, float(low)) and _COMPARISONS[closing](value, float(high))


def _range_words(text: object) -> str:
    if text == "not empty":
        return "that is not empty"
    if not isinstance(text, str) or not _RANGE.fullmatch(text):
        return ""
    return text if text[0] in "<>" else f"in {text}"


def _plural(words: str) -> str:
    first = next((singular for singular in _PLURALS if words.startswith(singular)), None)
    return words.replace(first, _PLURALS[first], 1) if first else words


def _shown(value: object) -> str:
    """As one would write it in YAML, the beginning of it if it is long."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
