"""Whatever is typed or stored: it is refused in one line as wrong input, the task is called, or Hydra answers; nothing else."""

import copy
import logging
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_any_value import KEYS, VALUES

from mcl_lab import cli
from mcl_lab.config.compose import compose
from mcl_lab.config.plain import leaves, plain
from mcl_lab.config.stored import to_yaml

TASK = ["task._target_=stand_in_tasks.record"]
GRAMMAR = ["=", ",", "[", "]", "{", "}", "'", '"', "${", "}", "\\", "+", "~", "@", ":", ".", "(", ")",
    "range(1,3)", "glob(*)", "choice(",
           "sort(", "int(", "???", "null", "pair", "optimizer", "lr", "seed", "/", "*", " ", "\t", "\n",
           "\x00", "\x1b", "\ud800"]  # fmt: skip
TEXTS = (
    st.text(max_size=30)
    | st.lists(st.sampled_from(GRAMMAR), max_size=12).map("".join)
    | st.text(st.characters(), max_size=30)
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8)
TREES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
LEAVES = sorted(key for key, _ in leaves(plain(compose(["data=digits"]))))
STORED = yaml.safe_load(to_yaml(compose([*TASK, "data=digits"]), clean=str))
FLAGS = ["-m", "-r", "-c", "-h", "--cfg", "--info", "--help", "--hydra-help", "--package", "--resolve",
    "--config-dir", "-cd", "-cn", "-cp",
         "--config-name", "--version", "--shell-completion", "--experimental-rerun", "--", "-", "--x", "job",
         "all", "hydra", "defaults",
         "searchpath", "pair=resnet8", "seed=0,1", "seed=1", "query=bash", "install=fish", ".", "", "\x00",
         "\ud800", "é"]  # fmt: skip
FUZZED = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def outcome(calls, empty_folder, capsys, monkeypatch):
    """outcome(*arguments): run.py called, and what must hold of it whatever they are. The task is to write nothing: its folder
    may be any."""
    import stand_in_tasks

    monkeypatch.setattr(logging.root, "handlers", [])  # Hydra's answers set up its own
    monkeypatch.setattr(logging.root, "level", logging.WARNING)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")  # and run.py this
    monkeypatch.setattr(sys, "argv", ["run.py"])
    monkeypatch.setattr(stand_in_tasks, "record", lambda config, **options: calls.append((config, options)))

    def call(*arguments, answers=False):
        before, files = len(calls), sorted(Path().rglob("*"))
        capsys.readouterr()
        try:
            status = cli.main(list(arguments))
        except SystemExit as end:  # of Hydra's, when it has answered
            assert answers
            status = end.code
        error = capsys.readouterr().err
        if status == 2:
            assert error.startswith("mcl_lab: error: ") and error.endswith("\n") and error[:-1].isprintable()
            assert len(error) < 2100 and len(calls) == before
        else:
            assert status in (0, None) and (answers or error == "" and len(calls) > before), (status, error)
        assert sorted(Path().rglob("*")) == files
        return status

    return call


@pytest.mark.full
@settings(FUZZED, max_examples=200)
@given(text=TEXTS)
def test_any_text(outcome, text):
    outcome(*TASK, text, answers=text.startswith("-"))


@pytest.mark.full
@settings(FUZZED, max_examples=50)
@given(key=st.sampled_from(LEAVES), text=TEXTS, quote=st.sampled_from(["", "'", '"']))
def test_any_text_for_a_key(outcome, key, text, quote):
    outcome(*TASK, f"{key}={quote}{text}{quote}")


@pytest.mark.full
@settings(FUZZED, max_examples=30)
@given(
    st.lists(
        st.tuples(st.sampled_from(["", "+", "++", "~"]), st.sampled_from(KEYS), st.sampled_from(VALUES)), min_size=2, max_size=3
    )
)  # fmt: skip
def test_several_overrides(outcome, triples):
    outcome(*TASK, *(f"{prefix}{key}={value}" for prefix, key, value in triples if not key.startswith("task")))


def typed(value) -> str:
    """In Hydra's grammar."""
    match value:
        case None | True | False:
            return {None: "null", True: "true", False: "false"}[value]
        case str():
            return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
        case list():
            return "[" + ",".join(map(typed, value)) + "]"
    return repr(value)


@pytest.mark.full
@settings(FUZZED, max_examples=40)
@given(key=st.sampled_from(LEAVES), value=SCALARS | st.lists(SCALARS, max_size=3))
def test_any_typed_value(outcome, key, value):
    if key != "task._target_":
        outcome(*TASK, f"{key}={typed(value)}")


@pytest.fixture
def stored(outcome, empty_folder):
    """stored(content): a run that goes on in a folder whose config.yaml holds that."""
    Path("here").mkdir()

    def go_on(content: bytes):
        Path("here/config.yaml").write_bytes(content)
        return outcome("resume=here")

    return go_on


@pytest.mark.full
@settings(FUZZED, max_examples=50)
@given(content=st.binary(max_size=200) | TREES.map(lambda tree: yaml.safe_dump(tree).encode("utf-8", "surrogatepass")))
def test_any_content_of_a_stored_config(stored, content):
    assert stored(content) == 2


@pytest.mark.full
@settings(FUZZED, max_examples=30)
@given(
    key=st.sampled_from(LEAVES + ["hydra.overrides.task", "hydra.runtime.choices", "hydra"]),
    depth=st.integers(0, 2),
    value=TREES,
)
def test_any_value_in_a_stored_config(stored, key, depth, value):
    tree = copy.deepcopy(STORED)
    *way, last = key.rsplit(".", depth)[0].split(".")
    node = tree
    for name in way:
        node = node[name]
    node[last] = value
    stored(yaml.safe_dump(tree).encode("utf-8", "surrogatepass"))


@pytest.mark.full
@settings(FUZZED, max_examples=50)
@given(words=st.lists(st.sampled_from(FLAGS), max_size=4))
def test_any_flags(outcome, words):
    outcome(*TASK, *words, answers=True)


@pytest.mark.full
@settings(FUZZED, max_examples=50)
@given(
    command=st.sampled_from(["python run.py ", ""]),
    text=TEXTS.filter(lambda text: "\x00" not in text),
    shell=st.sampled_from(["bash", "fish", "zsh"]),
)
def test_any_line_at_the_tab_key(outcome, command, text, shell):
    with pytest.MonkeyPatch.context() as patch:
        line = (command + text).encode("utf-8", "surrogatepass").decode("utf-8", "surrogateescape")
        patch.setenv("COMP_LINE", line)
        assert outcome("--shell-completion", f"query={shell}", answers=True) == 0
