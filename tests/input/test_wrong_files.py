"""A folder of YAML files of one's own: whatever is wrong in one, the line names file or setting, and no code in it runs."""

import os
import re
import shutil

import pytest
from training_runs import end, start
from wrong_files import WRONG_FILES

from mcl_lab import cli


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mine")
    for name, content, _ in WRONG_FILES:
        file = folder / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        if name.startswith("experiment/") and isinstance(content, str) and not content.startswith("# @package"):
            content = f"# @package _global_\n{content}"
        file.write_bytes(content.encode() if isinstance(content, str) else content)
    for group in ("experiment", "sweeps"):
        (folder / group / "folder.yaml").mkdir()
        (folder / group / "dangling.yaml").symlink_to("nowhere")
        (folder / group / "loop.yaml").symlink_to("loop.yaml")
    return folder


def words_for(name):
    """What names a file on the command line."""
    group, _, option = name.rpartition("/")
    form = {"network": "network@pair.peers.b={}", "sweeps": "+sweeps={}"}.get(group, group + "={}")
    return [form.format(option), *(["-m", "data=digits"] if group == "hydra/launcher" else [])]


@pytest.fixture
def refused(mine, tmp_path, monkeypatch, capsys):
    """refused(name) -> the one line about that file, with which nothing else happened."""

    def call(name):
        monkeypatch.chdir(tmp_path)
        assert cli.main([f"--config-dir={mine}", *words_for(name)]) == 2
        out, error = capsys.readouterr()
        assert error.startswith("mcl_lab: error: ") and error.count("\n") == 1 and error[:-1].isprintable()
        assert len(error) < 2100 and out == "" and not list(tmp_path.iterdir())
        return error

    return call


@pytest.mark.parametrize(
    ("name", "words"), [(name, words) for name, _, words in WRONG_FILES], ids=lambda value: str(value)[:40]
)
def test_wrong_files(refused, name, words):
    error = refused(name)
    for word in words:
        assert word in error


@pytest.mark.full
def test_a_file_of_megabytes(tmp_path, capsys):
    (tmp_path / "experiment").mkdir()
    for text in (f"seed: -1 # {10**7 * 'x'}\n", f"data: {{name: {10**7 * 'x'}}}\nseed: -1\n"):
        (tmp_path / "experiment" / "megabytes.yaml").write_text(f"# @package _global_\n{text}")
        assert cli.main([f"--config-dir={tmp_path}", "experiment=megabytes"]) == 2
        error = capsys.readouterr().err
        assert error.startswith("mcl_lab: error: seed: must be an integer") and len(error) < 2100


@pytest.mark.parametrize("name", ["experiment/folder", "experiment/dangling", "experiment/loop"])
def test_options_that_are_no_files(refused, name):
    assert f"there is no option {name.partition('/')[2]}" in refused(name)


@pytest.mark.parametrize(
    ("name", "reason"), [("folder", "Is a directory"), ("dangling", "No such file"), ("loop", "Too many levels")]
)
def test_sweeps_that_are_no_files(refused, name, reason):
    error = refused(f"sweeps/{name}")
    assert f"{name}.yaml cannot be read" in error and reason in error


def test_aliases_that_do_not_multiply(tmp_path, monkeypatch, capsys):
    """An anchor or two is what YAML has them for."""
    (tmp_path / "experiment").mkdir()
    text = "# @package _global_\nx: &rate 0.25\noptimizer: {lr: *rate}\n"
    (tmp_path / "experiment" / "anchored.yaml").write_text(text)
    assert cli.main([f"--config-dir={tmp_path}", "experiment=anchored"]) == 2
    assert capsys.readouterr().err.startswith("mcl_lab: error: x: there is no such setting")
    (tmp_path / "experiment" / "anchored.yaml").write_text(
        text.replace("x: &rate 0.25\n", "").replace("*rate", "&r 0.375, weight_decay: *r")
    )
    assert cli.main([f"--config-dir={tmp_path}", "experiment=anchored", "--cfg", "job"]) == 0
    assert len(re.findall("0.375", capsys.readouterr().out)) == 2


def test_a_folder_with_a_quote_in_its_name(tmp_path, capsys):
    folder = tmp_path / "it's mine"
    (folder / "experiment").mkdir(parents=True)
    (folder / "experiment" / "seeded.yaml").write_text("# @package _global_\nseed: 77\n")
    assert cli.main([f"--config-dir={folder}", "experiment=seeded", "--cfg", "job"]) == 0
    assert "seed: 77" in capsys.readouterr().out


UNREADABLE = [
    ("mine/experiment/closed.yaml", ["--config-dir=mine", "experiment=closed"], "closed"),
    ("mine/sweeps/closed.yaml", ["--config-dir=mine", "+sweeps=closed"], "closed.yaml"),
    ("mine/network", ["--config-dir=mine", "network@pair.peers.b=closed"], "mine/network"),
    ("run/config.yaml", ["resume=run"], "run/config.yaml"),
    ("run", ["resume=run"], "run"),
    ("run", ["task=evaluate", "task.checkpoint=run/checkpoints/networks.pt"], "run"),
    ("run", ["task=sync", "task.runs=run/inner"], "run/inner"),
    ("run", ["task=clean", "task.runs=run/inner"], "run/inner"),
    ("run", ["task=sweep", "task.sweep=run/inner"], "run/inner"),
    ("run", ["task=report", "task.source=folders", "task.runs=run/inner"], "run/inner"),
    ("run", ["hydra.run.dir=run/inner"], "run/inner"),
]


# Root may read everything unless it gives that right up.
AS_OTHERS = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.getuid() == 0 else []


@pytest.mark.skipif(
    bool(AS_OTHERS) and shutil.which("setpriv") is None, reason="root reads everything, without setpriv"
)
@pytest.mark.parametrize(
    ("closed", "arguments", "word"),
    [row if place in (0, 3) else pytest.param(*row, marks=pytest.mark.full) for place, row in enumerate(UNREADABLE)],
    ids=[" ".join(row[1]) for row in UNREADABLE],
)
def test_what_may_not_be_read(closed, arguments, word, tmp_path):
    for folder in ("mine/experiment", "mine/sweeps", "mine/network", "run/inner", "run/checkpoints"):
        (tmp_path / folder).mkdir(parents=True)
    for file in (
        "mine/experiment/closed.yaml",
        "mine/sweeps/closed.yaml",
        "mine/network/closed.yaml",
        "run/config.yaml",
    ):
        (tmp_path / file).write_text("# @package _global_\nseed: 1\n")
    (tmp_path / closed).chmod(0)
    try:
        done = end(start(arguments, tmp_path, before=AS_OTHERS), timeout=60)
    finally:
        (tmp_path / closed).chmod(0o755)
    assert done.status == 2, done.err
    assert done.err.startswith("mcl_lab: error: ") and done.err.count("\n") == 1 and word in done.err
