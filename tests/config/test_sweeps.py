"""Sweeps: what a command line and the sweep files it names come to."""

import itertools
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from mcl_lab import cli
from mcl_lab.config.compose import CONF, compose, options
from mcl_lab.config.identity import identity_of
from mcl_lab.config.plain import unresolved
from mcl_lab.config.sweeps import expand, split_names, sweep_files
from mcl_lab.errors import InputError

NETWORKS = [
    "resnet32", "resnet56", "resnet110", "wrn_16_2", "wrn_40_2", "wrn_28_4",
    "shufflenetv2_05x", "shufflenetv2_1x", "hcgnet_a1", "hcgnet_a2",
]  # fmt: skip
HETEROGENEOUS = [
    "resnet32_resnet110", "resnet56_resnet110", "wrn_16_2_wrn_40_2", "wrn_40_2_wrn_28_4",
    "resnet56_wrn_40_2", "resnet110_wrn_28_4", "shufflenetv2_1x_resnet110", "shufflenetv2_1x_wrn_40_2",
]  # fmt: skip


@pytest.fixture
def write(tmp_path):
    """write(name, content) -> a folder for --config-dir with that sweep file in it."""

    def write_file(name, content) -> Path:
        (tmp_path / "sweeps").mkdir(exist_ok=True)
        (tmp_path / "sweeps" / f"{name}.yaml").write_text(
            content if isinstance(content, str) else yaml.safe_dump(content)
        )
        return tmp_path

    return write_file


def pairs(runs, loss):
    return [
        word.removeprefix("pair=") for words in runs for word in words if f"loss={loss}" in words and "pair=" in word
    ]


def test_the_tables_of_the_paper():
    single = [f"single/{name}" for name in NETWORKS]
    homogeneous = [name for name in NETWORKS if name != "wrn_28_4"]
    assert pairs(expand(["baseline"], []), "baseline") == single
    assert pairs(expand(["homogeneous"], []), "lmcl") == homogeneous
    assert pairs(expand(["heterogeneous"], []), "lmcl") == HETEROGENEOUS
    for name in ("paper", "smoke"):
        runs = expand([name], [])
        assert pairs(runs, "baseline") == single and pairs(runs, "lmcl") == homogeneous + HETEROGENEOUS
        assert len(runs) == 27


def test_methods_are_all_losses_on_one_pair():
    assert {word for words in expand(["methods"], []) for word in words if "loss=" in word} == {
        f"loss={name}" for name in options("loss")
    }
    assert set(pairs(expand(["methods"], ["pair=wrn_16_2"]), "lmcl")) == {"wrn_16_2"}


@pytest.mark.parametrize(
    "name",
    [name if name in ("methods", "smoke") else pytest.param(name, marks=pytest.mark.full) for name in sweep_files()],
)
def test_every_run_of_a_shipped_sweep_passes_the_check(name):
    keys = {identity_of(cli.checked(words)).run_key for words in expand([name], [])}
    assert len(keys) == len(expand([name], []))


def test_a_row_is_a_product_in_order():
    assert expand([], ["seed=0,1", "loss=lmcl", "pair=resnet8,resnet20"]) == [
        [f"seed={seed}", "loss=lmcl", f"pair={pair}"] for seed in (0, 1) for pair in ("resnet8", "resnet20")
    ]


@settings(max_examples=30, deadline=None)
@given(
    rows=st.lists(
        st.fixed_dictionaries(
            {"loss": st.lists(st.sampled_from("abc"), min_size=1, max_size=3, unique=True)},
            optional={"optimizer.lr": st.floats(0.01, 1), "trainer.channels_last": st.booleans()},
        ),
        min_size=1,
        max_size=3,
    ),
    seeds=st.lists(st.integers(0, 9), min_size=1, max_size=3, unique=True),
    typed=st.booleans(),
)
def test_a_sweep_is_the_union_of_its_rows_times_the_command_line(rows, seeds, typed, tmp_path_factory):
    folder = tmp_path_factory.mktemp("conf")
    (folder / "sweeps").mkdir()
    (folder / "sweeps" / "mine.yaml").write_text(yaml.safe_dump({"rows": rows}))
    words = [f"seed={','.join(map(str, seeds))}", *(["optimizer.lr=0.5"] if typed else [])]
    expected = set()
    for row in rows:
        rest = {key: [str(value).lower() if isinstance(value, bool) else str(value)] for key, value in row.items()}
        rest |= {"loss": row["loss"], "seed": list(map(str, seeds))} | ({"optimizer.lr": ["0.5"]} if typed else {})
        for values in itertools.product(*rest.values()):
            expected.add(frozenset(f"{key}={value}" for key, value in zip(rest, values, strict=True)))
    assert sorted(map(sorted, expand(["mine"], words, folder))) == sorted(map(sorted, expected))


@pytest.mark.parametrize(
    ("value", "read"),
    [
        (3, 3), (0.1, 0.1), (1e-05, 1e-05), (True, True), (None, None), ("cosine", "cosine"), ("a b", "a b"),
        ("it's, so: {x}", "it's, so: {x}"), ("range(3)", "range(3)"), ("", ""), ("0x1", "0x1"), ("null", "null"),
        ([[16, 32]], [16, 32]), ({"x": [1, "y z"]}, {"x": [1, "y z"]}),
    ],
)  # fmt: skip
def test_a_value_of_a_row_arrives_as_it_is(value, read, write):
    (words,) = expand(["mine"], [], write("mine", {"rows": [{"++data.name": value}]}))
    found = unresolved(compose(words))["data"]["name"]
    assert found == read and type(found) is type(read)


def test_lists_ranges_choices_and_globs():
    assert expand([], ["seed=range(3)"]) == [["seed=0"], ["seed=1"], ["seed=2"]]
    assert expand([], ["loss=choice(lmcl,baseline)"]) == [["loss=lmcl"], ["loss=baseline"]]
    direct = sorted(path.stem for path in (CONF / "pair").glob("*.yaml"))
    single = sorted(f"single/{path.stem}" for path in (CONF / "pair" / "single").glob("*.yaml"))
    assert expand([], ["pair=glob(*)"]) == [[f"pair={name}"] for name in direct]
    assert expand([], ["pair=glob(single/*)"]) == [[f"pair={name}"] for name in single]
    without = [name for name in direct if "_" not in name]
    assert expand([], ["pair=glob(*,exclude=*_*)"]) == [[f"pair={name}"] for name in without]
    assert expand([], ["seed=1", "seed=2,3"]) == [["seed=2"], ["seed=3"]]  # typed twice: the last counts
    assert expand([], ["~loss.weight_network", "+network@pair.peers.c=resnet8,resnet20"]) == [
        ["~loss.weight_network", f"+network@pair.peers.c={name}"] for name in ("resnet8", "resnet20")
    ]


def test_options_of_a_folder_of_ones_own(write, tmp_path):
    write("mine", {"sweeps": ["baseline"], "rows": [{"pair": "theirs"}], "with": {"seed": 3}})
    (tmp_path / "pair").mkdir()
    (tmp_path / "pair" / "theirs.yaml").touch()
    assert ["pair=theirs"] in expand([], ["pair=glob(*)"], tmp_path)
    runs = expand(["mine"], [], tmp_path)
    assert len(runs) == 11 and runs[-1] == ["pair=theirs", "seed=3"] and all("seed=3" in words for words in runs)


def test_names_are_told_from_overrides():
    assert split_names(["+sweeps=a,b", "seed=1", "sweeps=c"]) == (["a", "b", "c"], ["seed=1"])
    assert split_names(["sweep=a"]) == ([], ["sweep=a"])
    both = expand(["homogeneous", "heterogeneous"], [])
    assert both == expand(["homogeneous"], []) + expand(["heterogeneous"], [])
    assert expand(["homogeneous", "paper"], []) and len(expand(["homogeneous", "paper"], [])) == 27  # each run once


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("rows: [", "cannot be read"),
        ("[1, 2]", "must hold"),
        ("", "must hold"),
        ("row: []", "must hold"),
        ("rows: {loss: lmcl}", "a row must be a mapping"),
        ("rows: [lmcl]", "a row must be a mapping"),
        ("rows: [{3: 4}]", "a row must be a mapping"),
        ("rows: [{'a b': 4}]", "a row must be a mapping"),
        ("sweeps: [mine]", "takes in itself"),
        ("sweeps: [papre]", "did you mean paper?"),
    ],
)
def test_what_is_wrong_with_a_sweep_file(content, words, write):
    with pytest.raises(InputError, match="sweeps: ") as caught:
        expand(["mine"], [], write("mine", content))
    assert words in str(caught.value)
