"""Which runs make a row, what they come to, and what is never mixed."""

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcl_lab.results.report import tables
from mcl_lab.results.reported_runs import once, sample

HEADLINE = "own_head_last_epoch"
PAIR = ["resnet32", "resnet32"]


def lines(found):
    """(section, network, method) -> the line."""
    return {
        (section.title, line.network, row.method): line
        for table in found
        for section in table.sections
        for row in section.rows
        for line in row.lines
    }


@given(st.lists(st.floats(0, 100), min_size=1, max_size=6))
def test_over_seeds(values):
    found = sample(values)
    assert found.n == len(values) and found.mean == pytest.approx(statistics.mean(values))
    if len(values) == 1:
        assert found.std is None
    else:
        assert found.std == pytest.approx(statistics.stdev(values))


def test_a_homogeneous_pair_counts_by_the_mean_of_its_peers(run, alone):
    runs = [run(PAIR, [75.0, 76.0], seed=0), run(PAIR, [76.0, 78.0], seed=1)]
    runs += [alone("resnet32", value, seed=seed) for seed, value in enumerate([70.0, 71.0, 72.0])]
    (table,) = tables(runs, runs, HEADLINE)
    line = lines([table])["Homogeneous pairs", "ResNet-32", "lmcl"]
    assert line.published == (70.91, 75.82)
    assert line.ours == (76.25, pytest.approx(statistics.stdev([75.5, 77.0])), 2)
    assert line.baseline == (71.0, 1.0, 3)
    assert line.gain == pytest.approx(5.25)
    assert not table.notes


@pytest.mark.parametrize("order", [("resnet32", "resnet110"), ("resnet110", "resnet32")])
def test_a_heterogeneous_pair_has_a_line_for_each_peer_in_the_published_order(run, alone, order):
    accuracy = {"resnet32": 75.0, "resnet110": 80.0}
    runs = [run(list(order), [accuracy[name] for name in order]), alone("resnet32", 70.0), alone("resnet110", 74.0)]
    (table,) = tables(runs, runs, HEADLINE)
    (row,) = [row for row in table.rows if len(row.lines) == 2]
    assert [(line.network, line.published.accuracy, line.ours.mean, line.gain) for line in row.lines] == [
        ("ResNet-32", 75.82, 75.0, 5.0),
        ("ResNet-110", 79.71, 80.0, 6.0),
    ]


@pytest.mark.parametrize(
    "other",
    [
        {"recipe": {"trainer.epochs": 100}},
        {"recipe": {"data.images._target_": "mcl_lab.data.datasets.cifar10"}, "dataset": "cifar10"},
    ],
)
def test_neither_schedules_nor_data_sets_are_mixed(run, alone, other):
    runs = [run(PAIR, [75.0, 75.0]), run(PAIR, [60.0, 60.0], seed=1, **other), alone("resnet32", 50.0, **other)]
    paper, apart = tables(runs, runs, HEADLINE)
    assert lines([paper])["Homogeneous pairs", "ResNet-32", "lmcl"].ours == (75.0, None, 1)
    assert lines([paper])["Homogeneous pairs", "ResNet-32", "lmcl"].baseline is None
    assert "no baseline yet: ResNet-32" in paper.missing
    line = lines([apart])["Homogeneous pairs", "ResNet-32", "lmcl"]
    assert (line.ours.mean, line.baseline.mean) == (60.0, 50.0)
    assert paper.title != apart.title
    words = " ".join(apart.remarks)
    assert ("not the paper's recipe: trainer.epochs 100, not 300" in words) is ("dataset" not in other)
    assert ("published numbers are of CIFAR-100, ours of cifar10" in words) is ("dataset" in other)


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ({}, "cifar100, 300 epochs, batch 128, SGD lr 0.1, Cosine"),
        (
            {"trainer.epochs": 1, "trainer.max_steps": 3},
            "cifar100, 1 epoch, at most 3 steps, batch 128, SGD lr 0.1, Cosine",
        ),
        (
            {"data.images.limit": 50},
            "cifar100, at most 50 training images a class, 300 epochs, batch 128, SGD lr 0.1, Cosine",
        ),
        (
            {"data.validation": 0.1},
            "cifar100, 300 epochs, batch 128, SGD lr 0.1, Cosine, 10 % of the training images held out",
        ),
    ],
)
def test_a_table_says_what_recipe_it_is_of(recipe, words, run):
    (table,) = tables([run(["resnet32"] * 2, [70, 71], recipe=recipe)], [], "own_head_last_epoch")
    assert table.title == words


def test_recipes_that_read_alike_are_told_apart(run):
    runs = [run(PAIR, [1.0, 1.0], recipe={"optimizer.momentum": momentum}) for momentum in (0.9, 0.8)]
    titles = [table.title for table in tables(runs, runs, HEADLINE)]
    assert ["optimizer.momentum=0.9" in titles[0], "optimizer.momentum=0.8" in titles[1]] == [True, True]


def test_a_changed_loss_or_network_is_no_published_row(run, alone):
    runs = [
        run(PAIR, [75.0, 75.0]),
        run(PAIR, [74.0, 74.0], changed={"loss.mutual_contrastive.icl": "0"}),
        run(PAIR, [73.0, 73.0], changed={"pair.peers.a.widths": "[8]", "pair.peers.b.widths": "[8]"}),
        alone("resnet32", 10.0, changed={"loss.classification.weight": "2"}),
    ]
    (table,) = tables(runs, runs, HEADLINE)
    found = lines([table])
    assert found["Homogeneous pairs", "ResNet-32", "lmcl"].ours.mean == 75.0
    assert found["Homogeneous pairs", "ResNet-32", "lmcl"].baseline is None
    assert found["Other runs", "ResNet-32", "lmcl (icl=0)"].published is None
    assert found["Other runs", "ResNet-32 (widths=[8])", "lmcl"].ours.mean == 73.0


def test_methods_stand_beside_the_published_ones(run, alone):
    runs = [run(PAIR, [75.0, 75.0]), run(PAIR, [74.0, 74.0], loss="dml"), run(PAIR * 2, [74.0] * 4, loss="mcl")]
    (table,) = tables(runs, runs, HEADLINE)
    found = lines([table])
    assert found["Other runs", "ResNet-32", "lmcl"].ours.mean == 75.0
    assert found["Other runs", "ResNet-32", "dml"].published == (71.09, 75.08)
    assert found["Other runs", "4 x ResNet-32", "mcl"].published == (70.91, 74.04)
    others = {method for section, _, method in found if section == "Other runs" and method.endswith("published")}
    assert others == {f"{name}, published" for name in ("CL-ILR", "ONE", "OKDDip", "MCL, 2 peers")}


def test_baselines_of_single_runs_before_those_of_cohorts(run, alone):
    together = run(PAIR, [60.0, 62.0], loss="baseline")
    ours = run(PAIR, [75.0, 75.0])
    (table,) = tables([ours, together], [ours, together], HEADLINE)
    assert lines([table])["Homogeneous pairs", "ResNet-32", "lmcl"].baseline == (61.0, None, 1)
    runs = [ours, together, alone("resnet32", 70.0)]
    (table,) = tables(runs, runs, HEADLINE)
    assert lines([table])["Homogeneous pairs", "ResNet-32", "lmcl"].baseline == (70.0, None, 1)
    assert lines([table])["Other runs", "ResNet-32", "baseline, together"].ours.mean == 61.0


def test_a_baseline_that_was_filtered_out_still_stands_beside(run, alone):
    ours, baseline = run(PAIR, [75.0, 75.0]), alone("resnet32", 70.0)
    (table,) = tables([ours], [ours, baseline], HEADLINE)
    assert lines([table])["Homogeneous pairs", "ResNet-32", "lmcl"].gain == 5.0


def test_a_baseline_is_a_row_before_its_pair_is_trained(alone):
    runs = [alone("resnet32", 70.0), alone("resnet8", 60.0)]
    (table,) = tables(runs, runs, HEADLINE)
    found = lines([table])
    assert (
        found["Homogeneous pairs", "ResNet-32", "lmcl"].baseline.mean,
        found["Other runs", "resnet8", "baseline"].ours.mean,
    ) == (70.0, 60.0)
    assert found["Homogeneous pairs", "ResNet-32", "lmcl"].ours is None
    assert len(found) == 2


def test_unfinished_runs_are_named_and_do_not_count(run, alone):
    runs = [
        run(PAIR, [75.0, 75.0]),
        run(PAIR, seed=1),
        run(["resnet56"] * 2, state="failed", message="not finite at step 7", epochs=9),
        alone("resnet32", seed=3),
    ]
    (table,) = tables(runs, runs, HEADLINE)
    found = lines([table])
    assert found["Homogeneous pairs", "ResNet-32", "lmcl"].ours.n == 1
    assert found["Homogeneous pairs", "ResNet-56", "lmcl"].ours is None
    assert found["Homogeneous pairs", "ResNet-56", "lmcl"].unfinished == "epoch 9/300"
    assert table.notes == [
        "not finished: resnet32_resnet32-lmcl-s1 (running, epoch 120 of 300)",
        "not finished: resnet32-baseline-s3 (running, epoch 120 of 300)",
        "not finished: resnet56_resnet56-lmcl-s0 (failed, epoch 9 of 300: not finite at step 7)",
    ]
    assert [table.marks(row) for row in table.rows] == [[1, 2], [3]]


A, B = "a" * 40, "b" * 40


@pytest.mark.parametrize(
    ("commits", "baseline", "note"),
    [
        ((A, A), A, None),
        ((A, B), A, "differing code: aaaaaaa (seed 0, baseline seed 0); bbbbbbb (seed 1)"),
        ((A, A), B, "differing code: aaaaaaa (seeds 0, 1); bbbbbbb (baseline seed 0)"),
        ((A, A), f"{A}+changes", "differing code: aaaaaaa (seeds 0, 1); aaaaaaa+changes (baseline seed 0)"),
        ((f"{A}+changes",) * 2, f"{A}+changes", "code that no commit tells: aaaaaaa+changes"),
        ((f"{A} then {B}",) * 2, f"{A} then {B}", "differing code: aaaaaaa then bbbbbbb (seeds 0, 1, baseline seed 0)"),
        (("unknown",) * 2, "unknown", "code that no commit tells: unknown"),
    ],
)
def test_differing_code_is_marked(run, alone, commits, baseline, note):
    runs = [run(PAIR, [75.0, 75.0], seed=seed, commit=commit) for seed, commit in enumerate(commits)]
    runs += [alone("resnet32", 70.0, commit=baseline), run(PAIR, seed=2, commit="c" * 40)]  # the last is not finished
    (table,) = tables(runs, runs, HEADLINE)
    assert table.notes[1:] == ([note] if note else [])


def test_missing_rows_are_named_shown_or_left_out(run):
    runs = [run(PAIR, [75.0, 75.0])]
    (note,) = tables(runs, runs, HEADLINE)
    assert len(note.rows) == 1
    (absent,) = [words for words in note.missing if words.startswith("no runs yet: ")]
    assert len(absent.split(", ")) == 16 and "ResNet-32 & ResNet-110" in absent
    (rows,) = tables(runs, runs, HEADLINE, "rows")
    assert len(rows.rows) == 17 and sum(line.ours is None for row in rows.rows for line in row.lines) == 8 + 16
    (none,) = tables(runs, runs, HEADLINE, "none")
    assert (len(none.rows), none.missing) == (1, [])


def test_nobody_misses_the_published_rows_of_other_networks(run):
    runs = [run(["resnet8", "resnet8"], [90.0, 90.0])]
    for missing in ("note", "rows"):
        (table,) = tables(runs, runs, HEADLINE, missing)
        assert (len(table.rows), table.missing, table.remarks) == (1, ["no baseline yet: resnet8"], [])


def test_the_ensemble_stands_beside_the_baselines_own_head(run, alone):
    pair = run(PAIR, [75.0, 75.0])
    for peer in pair.peers.values():
        peer.metrics["ensemble_last_epoch"] = 78.0
    runs = [pair, alone("resnet32", 70.0)]
    (table,) = tables(runs, runs, "ensemble_last_epoch")
    assert lines([table])["Homogeneous pairs", "ResNet-32", "lmcl"].gain == 8.0
    assert any("baseline has no ensemble" in remark for remark in table.remarks)


def test_a_run_recorded_twice_counts_once(run):
    twice = [run(PAIR, [75.0, 75.0], created_ms=1), run(PAIR, created_ms=2), run(PAIR, [76.0, 76.0], created_ms=0)]
    assert once(twice) == [twice[0]]
    assert once(twice[1:]) == [twice[2]]
