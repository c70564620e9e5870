"""Every command that the documents show, run: as it stands there, but for what makes a training small.

Those of SLURM are run by slurm/test_documented_slurm_commands.py.
"""

import io
import os
import re
import shutil
import signal
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import pytest
from documents import (
    COMMANDS,
    DOCUMENTS,
    FILE,
    FILES,
    HOUSE,
    blocks,
    commands,
    filled,
    is_for_slurm,
    parsed,
    text_of,
    write_files,
)
from mlflow_server import MlflowServer, wait_until
from PIL import Image
from training_runs import RUN, fork, only_folder

from mcl_lab import cli
from mcl_lab.config.check import check, check_hydra
from mcl_lab.config.compose import compose
from mcl_lab.config.sweeps import expand

SNIPPETS = [block for document in DOCUMENTS for block in blocks(document) if block.language == "python"]
LANGUAGES = {"bash", "console", "python", "yaml", "math"}

SORTS = """\
```bash
python run.py 'a=#1' b=2 && make all   # all; task.delete=true deletes it
```
1. ```bash
   mlflow server \\
       --port 1
   ```
```console
$ python run.py c=3
3
```
```yaml
python run.py: d``` `python -m pytest`
```
So `python -m pytest`, or `python`.
"""
SMALL = ["data.batch_size=20", "trainer=debug", "trainer.max_steps=2", "trainer.threads=1"]
SMALL_IMAGES = "data.images.size=8"
NOISE = ["task.images=100", "task.test_images=20", "task.num_classes=10", "task.image_size=8", "data.batch_size=20"]
STAGES = [
    f"pair.peers.{peer}.{setting}" for peer in "ab" for setting in ("blocks=[1,1]", "widths=[16,32]")
]  # two, not three
SMALL_BENCHMARK = ["pair=resnet8", *STAGES, "task.repeats=1", "task.events=1", "task.warmup=1", *NOISE]
EXPECTED = r"mcl_lab: (\d+ runs read from experiment|plots of \d+ rows are in plots, attached) .*\n"  # on stderr
PIP = "pip install -q -c constraints.txt -e "
# Of all tests, and so this one too.
BY_CI = ["python -m pytest", "python -m pytest -q -n 2 --dist loadfile", "python -m pytest -m full"]


def of_kind(*kinds):
    here = [command for command in COMMANDS if not command.said and not is_for_slurm(command)]
    return pytest.mark.parametrize("command", [command for command in here if command.kind in kinds], ids=str)


# -- nothing is missed


def test_the_kinds_of_blocks():
    assert {block.language for document in DOCUMENTS for block in blocks(document)} == LANGUAGES


def test_every_command_is_found():
    """By plain counting in what stands between fences."""
    counted, fence = 0, None
    for document in DOCUMENTS:
        for line in text_of(document).splitlines():
            if re.match(r"\W*(\d+\. *)?```", line):
                fence = line.strip("` ") if fence is None else None
            elif fence == "bash":
                counted += sum(map(line.count, ("python run.py ", "python -m ", "mlflow server ", "mlflow ui ")))
            elif fence == "console":
                counted += line.startswith("$ ")
        assert fence is None
    fenced = [command for command in COMMANDS if not in_a_sentence(command)]
    kinds = ("run", "pytest", "module", "server")
    assert len([command for command in fenced if command.kind in kinds]) == counted > 35


def test_a_document_of_many_sorts(tmp_path):
    (tmp_path / "any.md").write_text(SORTS)
    found = list(commands(tmp_path / "any.md"))
    assert [(command.line, command.text, command.kind) for command in found] == [
        (2, "python run.py 'a=#1' b=2", "run"),
        (2, "make all", None),
        (5, "mlflow server --port 1", "server"),
        (9, "python run.py c=3", "run"),
        (15, "python -m pytest", "pytest"),
    ]
    assert found[0].beside == ("task.delete=true",) and found[3].said == "3\n"
    with pytest.raises(AssertionError, match="stand for"):
        found[0]._replace(text="python run.py task.run=THING").filled("mine")
    for text in ("python run.py $x", "python run.py a=1 | sort", "python run.py a=(b)"):
        with pytest.raises(AssertionError, match="only a shell"):
            parsed(text)
    assert parsed("A=1 python run.py 'a=b c' > out") == ({"A": "1"}, ["python", "run.py", "a=b c"], "out")


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_it_is_known_what_a_command_is(command):
    assert command.kind, "of no kind that tests/documents.py knows"
    assert command.filled("mine")


def test_what_is_installed_is_what_ci_installs():
    """In a new environment, by README's line for the tests."""
    script = (HOUSE / ".ci" / "run").read_text()
    texts = [command.text for command in COMMANDS if command.kind == "install"]
    assert "'/^## Tests/,/^```$/p' README.md" in script and f".venv/bin/{PIP}'.[test]'" in texts
    extras = {"": set(), **requirements()}
    for text in texts:
        if text.startswith("sudo apt-get "):
            assert "apt-get install -qy --no-install-recommends" in script and "cluster.py packages" in script
        elif PIP in text:
            extra = re.fullmatch(r"\.|'\.\[(\w+)\]'", text.partition(PIP)[2])[1]
            assert extras[extra or ""] <= extras["test"] or f".venv/bin/{text}\n" in script
        else:  # the second is for a PostgreSQL, which tests do without
            assert text in ("python3 -m venv .venv", "pip install psycopg2-binary")


def requirements() -> dict[str, set[str]]:
    """What each extra installs."""
    config = ConfigParser()
    config.read(HOUSE / "setup.cfg", encoding="utf-8")
    return {name: set(lines.split("\n")) - {""} for name, lines in config["options.extras_require"].items()}


def test_ci_runs_all_the_tests_that_it_can():
    script = (HOUSE / ".ci" / "run").read_text()
    assert re.search(r"^\.venv/bin/python -m pytest .*-m full$", script, re.MULTILINE)
    texts = {command.text.removeprefix(".venv/bin/") for command in COMMANDS if command.kind == "pytest"}
    assert set(BY_CI) < texts and all("tests/" in text or "-m soak" in text for text in texts - set(BY_CI))


def test_ci_checks_what_contributors_are_told_to():
    script = (HOUSE / ".ci" / "run").read_text()
    texts = [command.text for command in COMMANDS if command.kind == "check"]
    wanted = [text.replace("ruff format", "ruff format --check") for text in texts]
    assert len(texts) == 3 and all(f".venv/bin/{text}\n" in script for text in wanted)


def in_a_sentence(command) -> bool:
    return f"`{command.text}`" in text_of(command.document).splitlines()[command.line - 1]


# -- everyday: they are right as far as that is known without running them


@of_kind("run")
def test_a_command_passes_the_first_stage(command, own_files, monkeypatch):
    monkeypatch.chdir(own_files)
    environment, words, _ = parsed(command.filled("mine"))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if "PYTHONPATH" in environment:
        monkeypatch.syspath_prepend(Path(environment["PYTHONPATH"]).resolve())
    for more in ([], *([setting] for setting in command.beside)):
        flags, configs = composed([*words[2:], *more])
        if flags.cfg:
            check_hydra(configs[0])
        for config in configs:
            check(config)


@pytest.mark.parametrize("command", [command for command in COMMANDS if is_for_slurm(command)], ids=str)
def test_a_command_for_slurm_passes_the_first_stage(command, own_files, monkeypatch):
    monkeypatch.chdir(own_files)
    _, words, _ = parsed(command.filled("mine"))
    for more in ([], *([setting] for setting in command.beside)):
        for config in composed([*words[2:], *more])[1]:
            check(config)


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.said], ids=str)
def test_what_a_command_is_shown_to_answer(command, capsys):
    environment, words, _ = parsed(command.filled("mine"))
    assert not environment and cli.main(words[2:]) == 2
    assert capsys.readouterr() == ("", command.said)


def test_the_folders_that_runs_are_shown_to_end_in():
    shown = {folder for document in DOCUMENTS for folder in re.findall(r"^run folder +(\S+)$", text_of(document), re.M)}
    trained = [parsed(command.text)[1][2:] for command in COMMANDS if "python run.py experiment=" in command.text]
    assert shown <= {compose(words).hydra.run.dir for words in trained} and len(shown) == 2


@pytest.mark.parametrize("snippet", SNIPPETS, ids=lambda block: f"{block.document.name}:{block.line}")
def test_a_snippet_is_python(snippet):
    compile(snippet.text, snippet.document.name, "exec")


def composed(words):
    """(its flags, the configs of its runs) of the words after run.py."""
    flags = cli.parse(words)
    names, others = cli.split_names(flags.overrides)
    if not (names or flags.multirun):
        return flags, [compose(cli.search_path(flags) + others)]
    config_dir = Path(flags.config_dir) if flags.config_dir else None
    return flags, cli.all_checked([[*cli.search_path(flags), *one] for one in expand(names, others, config_dir)])


@pytest.fixture(scope="module")
def own_files(tmp_path_factory):
    """A folder with the files that the documents write out."""
    folder = tmp_path_factory.mktemp("house")
    assert {block.language for block in FILES} == {"python", "yaml"}
    write_files(folder)
    return folder


# -- full: they do what they say


class Desk:
    """A folder in which somebody has worked for a while: finished runs, images, a network, an MLflow store."""

    def __init__(self, folder: Path):
        self.folder, self.bin = folder, folder.parent / f"{folder.name}_bin"
        self.bin.mkdir()
        for name, words in {"python": "", "mlflow": "-m mlflow"}.items():
            (self.bin / name).write_text(f'#!/bin/sh\nexec {sys.executable} {words} "$@"\n')
            (self.bin / name).chmod(0o755)
        self.environment = os.environ | {
            "PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(HOUSE),
            "COLUMNS": "120",
        }
        self.finished = ""

    def run(self, text: str, *added: str) -> str:
        """What a command of run.py prints, which must succeed."""
        environment, words, file = parsed(text)
        out, err = self.folder / "out.txt", self.folder / "err.txt"
        words = [*words[words.index("run.py") + 1 :], *added]
        if file:
            out = self.folder / file
        status = fork(main_in_folder, self.folder, self.environment | environment, words, out, err)
        said, warned = out.read_text(), err.read_text()
        assert (status, re.sub(EXPECTED, "", warned)) == (0, ""), f"{words}\n{said[-3000:]}\n{warned[-3000:]}"
        assert said and "Traceback" not in said
        return said

    def shell(self, text: str, folder: Path | None = None) -> subprocess.CompletedProcess:
        """What a shell makes of a command."""
        folder = folder or self.folder
        return subprocess.run(["bash", "-c", text], cwd=folder, env=self.environment, capture_output=True, text=True)

    def prepare(self, text: str) -> None:
        """What it needs besides, by the documents' own commands: a sweep, what a task has made of the finished run."""
        for name in re.findall(r"\btask\.sweep=(\w+)", text):
            self.make(f"runs/sweeps/{name}/ledger.json", f"+sweeps={name} ")
        for task in re.findall(rf"\bruns/{self.finished}/(\w+)/", text):
            self.make(f"runs/{self.finished}/{task}", f"task={task} ")

    def make(self, path: str, words: str) -> None:
        if not (self.folder / path).exists():
            makers = [command for command in COMMANDS if words in command.text and not is_for_slurm(command)]
            command = makers[0]
            self.run(command.filled(self.finished), *smaller(command, self.finished))


def main_in_folder(folder, environment, words, out, err) -> None:
    """For `fork`: run.py's main there."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path.insert(0, str(folder))
    for number, file in ((1, out), (2, err)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), encoding="utf-8", write_through=True)
    sys.argv = [str(RUN), *words]
    status = cli.main(words)
    sys.stdout.flush()
    sys.exit(status)


@pytest.fixture(scope="module")
def desk(own_files, empty_store, tmp_path_factory):
    folder = Path(shutil.copytree(own_files, tmp_path_factory.mktemp("desk"), dirs_exist_ok=True))
    desk = Desk(folder)
    shutil.copy(empty_store, folder / "mlflow.db")
    pixels = np.random.default_rng(0)
    arrays = {"classes": np.arange(10).astype(str)}
    for part in ("train", "test"):
        arrays |= {f"{part}_images": pixels.integers(256, size=(20, 8, 8, 3), dtype=np.uint8)}
        arrays |= {f"{part}_labels": np.arange(20) % 10}
        for digit in "0123456789":
            path = folder / "images" / part / digit
            path.mkdir(parents=True)
            for image in range(2):
                Image.fromarray(pixels.integers(256, size=(12, 12, 3), dtype=np.uint8)).save(path / f"{image}.png")
    np.savez(folder / "images" / "images.npz", **arrays)
    desk.run("python run.py experiment=quickstart", SMALL_IMAGES, *SMALL)
    desk.finished = only_folder(folder).name
    desk.run("python run.py pair=resnet32 loss=baseline", "data=digits", "data.name=cifar100", SMALL_IMAGES, *SMALL)
    return desk


def smaller(command, finished) -> list[str]:
    """What makes a command of run.py small, and nothing else of it different."""
    words = parsed(command.filled(finished))[1][2:]
    flags = cli.parse(words)
    if flags.help or flags.cfg:
        return []
    task = next((word for word in words if word.startswith("task=")), "task=train")
    if task == "task=benchmark":
        return SMALL_BENCHMARK
    if task != "task=train" or any(word.startswith("resume=") for word in words):
        return []
    data = next((word.partition("=")[2] for word in words if word.startswith("data=")), None)
    if data is None:  # CIFAR-100 is not here, and a report is to find what is called so
        data = "digits" if "experiment=quickstart" in words else "cifar100"
    added = list(SMALL)
    if data != "arrays":  # README's own
        added.append(SMALL_IMAGES)
    if data in ("digits", "cifar10", "cifar100"):
        added += ["data=digits", f"data.name={data}"]
    if not any(word.startswith("seed=") for word in words):
        added.append(f"seed={command.line}")  # so that it is no other command's run
    if any(word == "-m" or word.startswith("+sweeps=") for word in words):
        added += ["hydra.launcher.jobs=2", "trainer.max_steps=1"]
        if any(word.startswith("pair=") for word in words):
            added.append("tracking=none")  # more runs than the other sweeps have, whose senders take longer than they
        else:
            added.append("pair=resnet8")
    return added


@pytest.mark.full
@of_kind("run")
def test_run(command, desk, monkeypatch):
    text = command.filled(desk.finished)
    desk.prepare(text)
    monkeypatch.chdir(desk.folder)
    before = set(desk.folder.glob("runs/*/result.json"))
    added = smaller(command, desk.finished)
    desk.run(text, *added)
    trains = "trainer=debug" in added
    assert len(set(desk.folder.glob("runs/*/result.json")) - before) == (number_of_runs(text, added) if trains else 0)


def number_of_runs(text, added) -> int:
    environment, words, _ = parsed(text)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.syspath_prepend(Path.cwd())
        return len(composed([*words[2:], *added])[1])


@pytest.mark.full
@of_kind("module")
def test_what_a_module_makes(command, desk):
    (desk.folder / "docs").mkdir(exist_ok=True)
    done = desk.shell(command.text)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    file = parsed(command.text)[2]
    assert (desk.folder / file).read_text() == (HOUSE / file).read_text()


@pytest.mark.full
@of_kind("pytest")
def test_tests_that_are_named(command, desk):
    """A small file of them is run; the long drill, which takes hours, is looked for."""
    text = command.filled(desk.finished).removeprefix(".venv/bin/")
    if text in BY_CI:
        pytest.skip("run by .ci/run")
    only = " --collect-only" if "-m soak" in text else ""
    if "tests/" not in text:
        only += " tests/end_to_end/faults"  # where it is
    done = desk.shell(f"{text} -p no:cacheprovider{only}", HOUSE)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout[-3000:]
    assert re.search(r"\d+ passed" if not only else r"\d+(/\d+)? tests? collected", done.stdout)


@pytest.mark.full
@of_kind("server")
def test_a_server(command, desk, tmp_path):
    """On another port; it answers to localhost and to the names that it was told, and to no other."""
    port = MlflowServer(tmp_path).port
    text = command.filled(desk.finished).replace("5000", str(port))
    environment = desk.environment | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with open(tmp_path / "server.log", "wb") as log:
        words = ["bash", "-c", f"exec {text} --port {port} --workers 1"]
        process = subprocess.Popen(words, cwd=tmp_path, env=environment, stdout=log, stderr=log, start_new_session=True)
    address = f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/search?max_results=1"

    def answer(name: str) -> int:
        assert process.poll() is None, (tmp_path / "server.log").read_text()
        try:
            with urlopen(Request(address, headers={"Host": f"{name}:{port}"}), timeout=60) as response:
                return response.status
        except HTTPError as error:
            return error.code
        except OSError:
            return 0

    try:
        wait_until(lambda: answer("localhost"))
        by_name = 200 if "hostname" in text else 403
        assert [answer("localhost"), answer(os.uname().nodename), answer("elsewhere")] == [200, by_name, 403]
        desk.run(
            "python run.py",
            "data=digits",
            "loss=baseline",
            SMALL_IMAGES,
            *SMALL,
            f"tracking.uri=http://localhost:{port}",
        )
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert list(tmp_path.glob("*.db"))


@pytest.mark.full
@pytest.mark.parametrize(
    "snippet",
    [block for block in SNIPPETS if not FILE.match(block.text)],
    ids=lambda block: f"{block.document.name}:{block.line}",
)
def test_a_snippet_runs(snippet, desk):
    text = filled(snippet.text, desk.finished)
    desk.prepare(text)
    words = [sys.executable, "-c", text]
    done = subprocess.run(words, cwd=desk.folder, env=desk.environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
