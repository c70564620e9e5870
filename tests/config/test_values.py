"""Values against annotations: the type checker's rules, with its words."""

import ast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcl_lab.config.values import check_value, describe
from mcl_lab.errors import InputError

SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-(2**63) + 1, 2**63 - 1), st.floats(), st.text())


def accepted(value, annotation, within=None):
    try:
        check_value("key", value, annotation, within)
    except InputError as error:
        assert error.key == "key"
        return False
    return True


@given(SCALARS)
def test_plain_types(value):
    finite = isinstance(value, float) and value - value == 0
    assert accepted(value, "int") == (type(value) is int)
    assert accepted(value, "float") == (type(value) is int or finite)
    assert accepted(value, "bool") == (type(value) is bool)
    assert accepted(value, "str") == (type(value) is str)
    assert accepted(value, "int | None") == (type(value) is int or value is None)
    assert accepted(value, "Optional[str]") == (type(value) is str or value is None)
    assert not accepted(value, "list[int]")
    assert not accepted(value, "Tensor")
    assert accepted(value, "SomeAlias") and accepted(value, None) and accepted(value, "Any")


@given(st.floats(-10, 10), st.integers(-10, 10))
def test_ranges(number, whole):
    assert accepted(number, "Annotated[float, '> 0']") == (number > 0)
    assert accepted(number, "Annotated[float, '>= 0'] | None") == (number >= 0)
    assert accepted(number, "Annotated[float, '[0, 1)']") == (0 <= number < 1)
    assert accepted(number, "Annotated[float, '(0, 1]']") == (0 < number <= 1)
    assert accepted(number, "float", within="<= 0.5") == (number <= 0.5)
    assert accepted(whole, "Annotated[int, '>= 1']") == (whole >= 1)
    assert accepted([0.5, number], "Annotated[tuple[float, float], '[0, 1)']") == (0 <= number < 1)
    assert accepted([1, whole], "Sequence[Annotated[int, '>= 1']]") == (whole >= 1)
    assert accepted(None, "Annotated[float, '> 0'] | None")


@pytest.mark.parametrize(
    ("value", "annotation", "right"),
    [
        ([1, 2], "tuple[int, int]", True),
        ([1, 2, 3], "tuple[int, int]", False),
        ([1, 2, 3], "tuple[int, ...]", True),
        ([], "list[int]", True),
        ([1, "a"], "list[int]", False),
        ("ab", "Sequence[str]", False),
        (3, "list", False),
        ({"a": 1}, "dict[str, int]", True),
        ({"a": "1"}, "Mapping[str, int]", False),
        ({}, "int", False),
        ("a", "Literal['a', 'b']", True),
        ("c", "Literal['a', 'b']", False),
        (True, "Literal[1, 2]", False),
        (1, "Literal[True]", False),
        (0.1, "float | Tensor", True),
        ("0.1", "float | Tensor", False),
        ("0.1", "torch.Tensor | float", False),
        (1, "Union[str, None]", False),
        ("x", "'str | None'", True),
        (3, "Annotated[int, 'of the batch']", True),
        (10**400, "float", False),
        (10**400, "int", False),
    ],
)
def test_examples(value, annotation, right):
    assert accepted(value, annotation) == right


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        ("Annotated[int, '>= 1'] | None", "an integer >= 1 or null"),
        ("Annotated[tuple[float, float, float], '[0, 1]']", "a list of 3 numbers in [0, 1]"),
        ("Sequence[Annotated[int, '>= 1']]", "a list of integers >= 1"),
        ("Sequence[Sequence[str]]", "a list of lists of strings"),
        ("Literal['float32', 'bf16']", "one of float32, bf16"),
        ("float | Tensor", "a number"),
        ("Optional[bool]", "true or false or null"),
        ("dict[str, Any]", "a mapping"),
    ],
)
def test_words(annotation, words):
    assert describe(ast.parse(annotation, mode="eval").body) == words


def test_message_shows_what_was_given():
    with pytest.raises(InputError, match=r"^trainer.epochs: must be an integer >= 1, not true$"):
        check_value("trainer.epochs", True, "Annotated[int, '>= 1']")
    with pytest.raises(InputError, match=r"must be a number > 0, not 'nan'$"):
        check_value("lr", "nan", "float", within="> 0")
