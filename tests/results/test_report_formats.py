"""The tables as text, against what was written by hand, and with names that every format has to be kept safe from."""

import csv
import io
import re
from typing import get_args, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcl_lab.results import formats
from mcl_lab.results.published import Published
from mcl_lab.results.report import Line, Row, Section, Table
from mcl_lab.results.reported_runs import Sample
from mcl_lab.runs.result import FINAL_METRICS
from mcl_lab.tasks.report import report

METRIC = "own_head_last_epoch"
PAIR = Row(
    "resnet32_resnet110",
    "lmcl",
    [
        Line("ResNet-32", Published(70.91, 75.82), Sample(71.0, 0.254, 3), Sample(75.5, None, 1)),
        Line("ResNet-110", Published(75.29, 79.71), None, None, "epoch 9/300"),
    ],
    ["not finished: x_1"],
)
ODD = Row("resnet8", "dml", [Line("resnet8", None, Sample(60.0, None, 1), Sample(59.0, 1.0, 2))])
TABLE = Table(
    title="cifar100, 300 epochs",
    remarks=["compare the gains"],
    sections=[Section("Heterogeneous pairs", [PAIR]), Section("Other runs", [ODD], methods=True)],
    missing=["no runs yet: WRN-16-2"],
    dataset="cifar100",
)


def test_markdown():
    assert (
        formats.markdown({METRIC: [TABLE]})
        == """\
### cifar100, 300 epochs

Test accuracy (%), own head, last epoch, mean ± std (n seeds).

Compare the gains.

| Heterogeneous pairs | published baseline | published L-MCL | published gain | ours baseline (n) | ours L-MCL (n) | ours gain |
| :-- | --: | --: | --: | --: | --: | --: |
| ResNet-32<sup>1</sup> | 70.91 | 75.82 | +4.91 | 71.00 ± 0.25 (3) | 75.50 (1) | +4.50 |
| & ResNet-110 | 75.29 | 79.71 | +4.42 | – | epoch 9/300 | – |

| Other runs | method | ours baseline (n) | ours accuracy (n) | ours gain |
| :-- | :-- | --: | --: | --: |
| resnet8 | dml | 60.00 (1) | 59.00 ± 1.00 (2) | -1.00 |

1. not finished: x\\_1

No runs yet: WRN-16-2.
"""
    )


def test_latex():
    caption = r"Test accuracy (\%), own head, last epoch, mean $\pm$ std (n seeds). Compare the gains."
    assert (
        formats.latex({METRIC: [TABLE]}).replace(caption, "CAPTION")
        == r"""% needs \usepackage{booktabs}

\begin{table}
  \centering
  \caption{Heterogeneous pairs, cifar100, 300 epochs. CAPTION}
  \begin{tabular}{lrrrrrr}
    \toprule
    & \multicolumn{3}{c}{published, CIFAR-100} & \multicolumn{3}{c}{ours} \\
    \cmidrule(lr){2-4} \cmidrule(lr){5-7}
    network & baseline & L-MCL & gain & baseline (n) & L-MCL (n) & gain \\
    \midrule
    ResNet-32$^{1}$ & 70.91 & 75.82 & $+4.91$ & $71.00 \pm 0.25$ (3) & $75.50$ (1) & $+4.50$ \\
    \& ResNet-110 & 75.29 & 79.71 & $+4.42$ & -- & epoch 9/300 & -- \\
    \bottomrule
  \end{tabular}
  \par\smallskip{\footnotesize $^{1}$ not finished: x\_1}
\end{table}

\begin{table}
  \centering
  \caption{Other runs, cifar100, 300 epochs. CAPTION}
  \begin{tabular}{llrrr}
    \toprule
    network & method & baseline (n) & accuracy (n) & gain \\
    \midrule
    resnet8 & dml & $60.00$ (1) & $59.00 \pm 1.00$ (2) & $-1.00$ \\
    \bottomrule
  \end{tabular}
\end{table}
% no runs yet: WRN-16-2
"""
    )


def test_csv_has_every_number_unrounded():
    first, second, third = csv.DictReader(io.StringIO(formats.as_csv({METRIC: [TABLE]})))
    assert first == {
        "dataset": "cifar100",
        "recipe": "cifar100, 300 epochs",
        "figure": METRIC,
        "section": "Heterogeneous pairs",
        "pair": "resnet32_resnet110",
        "network": "ResNet-32",
        "method": "lmcl",
        "published_baseline": "70.91",
        "published": "75.82",
        "baseline_mean": "71.0",
        "baseline_std": "0.254",
        "baseline_n": "3",
        "mean": "75.5",
        "std": "",
        "n": "1",
        "gain": "4.5",
        "notes": "not finished: x_1",
    }
    assert [second[name] for name in ("network", "published", "baseline_n", "mean", "n", "gain")] == [
        "ResNet-110", "79.71", "", "", "", "",
    ]  # fmt: skip
    assert [third[name] for name in ("method", "published", "std", "gain")] == ["dml", "", "1.0", "-1.0"]


def test_every_metric_has_its_tables():
    both = {METRIC: [TABLE], "ensemble_last_epoch": [TABLE]}
    assert formats.markdown(both).count("### ") == 2 and "ensemble, last epoch" in formats.markdown(both)
    assert [row["figure"] for row in csv.DictReader(io.StringIO(formats.as_csv(both)))] == [
        name for name in both for _ in range(3)
    ]


ANY = st.text(min_size=1, max_size=12) | st.sampled_from(
    ["a|b", "a_b & c", "<b>x", "\\end{table}", "\x1b[31m", "x\ny", "[1ex]", "*x", "‮x"]
)


def with_names(name: str) -> Table:
    rows = [Row(name, name, [Line(name, None, None, Sample(1.0, None, 1))], [name]), Row(name, name, [Line(name)])]
    return Table(name, [name], [Section("Other runs", rows, methods=True)], [name], name)


@given(ANY)
def test_odd_names_break_no_row_of_markdown(name):
    text = formats.markdown({METRIC: [with_names(name)]})
    rows = [line for line in text.split("\n") if line.startswith("| ")]
    assert len(rows) == 4
    assert all(len(re.findall(r"(?<!\\)(?:\\\\)*\|", row)) == 6 for row in rows)
    assert "<" not in text.replace("<sup>1</sup>", "")
    assert all(letter.isprintable() for letter in text.replace("\n", ""))


@given(ANY)
def test_odd_names_break_no_row_of_latex(name):
    text = formats.latex({METRIC: [with_names(name)]})
    body = "\n".join(line for line in text.split("\n") if not line.startswith("%"))
    bare = re.sub(r"\\\\|\\[{}$&#_%]", "", body)  # what is left of these means something to LaTeX
    assert bare.count("{") == bare.count("}") and bare.count("$") % 2 == 0
    assert "#" not in bare and "%" not in bare and bare.count("\\end{table}") == 1
    rows = body[body.index("\\midrule") : body.index("\\bottomrule")].split("\n")[1:-1]
    assert len(rows) == 2 and all(re.sub(r"\\&", "", row).count("&") == 4 for row in rows)
    assert not re.search(r"(\\\\|rule)\s*[\[*]", body)  # would be an argument of the line's end


@given(ANY)
def test_odd_names_come_back_from_csv(name):
    rows = list(csv.DictReader(io.StringIO(formats.as_csv({METRIC: [with_names(name)]}))))
    assert [row["network"] for row in rows] == [formats.plain_text(name)] * 2
    assert all(None not in row.values() and None not in row for row in rows)


@pytest.mark.parametrize(
    ("text", "shown"), [("a\x1b[2Jb\nc\td", "a?[2Jb c d"), ("größe × 2", "größe × 2"), ("‮x", "?x")]
)
def test_plain_text_obeys_nobody(text, shown):
    assert formats.plain_text(text) == shown


def test_every_final_metric_can_be_reported():
    choices = get_args(get_type_hints(report)["metric"])
    assert choices == (*FINAL_METRICS, "all")
