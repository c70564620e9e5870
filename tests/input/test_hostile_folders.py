"""Folders that somebody else made: whatever they hold, no code in them runs, nothing outside of them is written or deleted."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from mcl_lab import cli
from mcl_lab.config.compose import compose
from mcl_lab.config.stored import to_yaml
from mcl_lab.errors import InputError, RunFailed

NAME = "theirs"
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join(9 * ['*' + before])}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
RUNS_A_PROGRAM = {"_target_": "mcl_lab.launch.queue.run_command", "command": ["touch", "hacked"]}
RECORD = {
    "id": "a" * 32, "run_key": "b" * 64, "name": NAME, "uri": None, "experiment": "mcl_lab", "params": {}, "tags": {},
    "created_ms": 1, "parent": None,
}  # fmt: skip
STATUS = {
    "state": "failed",
    "message": "",
    "started_ms": 1,
    "ended_ms": 2,
    "pid": 1,
    "process_start": None,
    "host": "h",
}
ESCAPES = "\x1b]0;mine\x07\x1b[2J\u202e"


@pytest.fixture(scope="module")
def config_text():
    words = ["data=digits", "pair=resnet8", "trainer.epochs=1", "trainer.max_steps=1", "tracking=none"]
    return to_yaml(compose(words), clean=str)


@pytest.fixture
def folder(tmp_path, config_text, monkeypatch):
    """runs/theirs, in the working directory: a run that was stopped at once."""
    monkeypatch.chdir(tmp_path)
    made = Path("runs", NAME)
    (made / "checkpoints").mkdir(parents=True)
    (made / "config.yaml").write_text(config_text)
    put(made, record=RECORD, status=STATUS)
    return made


def put(folder, **contents):
    for name, content in contents.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / f"{name}.json").write_text(text)


def call(capsys, *arguments, config=None):
    """(status, out, err) of run.py, or of its part after checking a config; nothing that a terminal obeys was printed."""
    capsys.readouterr()
    if config is None:
        status = cli.main(list(arguments))
    else:
        try:
            cli.run_one(config)
            status = 0
        except (InputError, RunFailed) as error:
            status = cli.report(error)
    out, err = capsys.readouterr()
    assert all(letter.isprintable() or letter == "\n" for letter in out + err), (out, err)
    return status, out, err


def all_files():
    """Of the working directory, with what is in them."""
    return {path: path.read_bytes() if path.is_file() else None for path in Path().rglob("*")}


def change(folder, edit):
    tree = yaml.safe_load((folder / "config.yaml").read_text())
    edit(tree)
    (folder / "config.yaml").write_text(yaml.safe_dump(tree, allow_unicode=True))


def in_loss(tree):
    tree["loss"]["extra"] = RUNS_A_PROGRAM


def in_augmentation(tree):
    tree["data"]["augmentation"] = RUNS_A_PROGRAM


def cleans(tree):
    tree["task"] = {"_target_": "mcl_lab.tasks.clean.clean", "runs": "runs", "delete": True}


CONFIGS = {
    "loss": (in_loss, "not allowed"),
    "augmentation": (in_augmentation, "not allowed"),
    "images": (lambda tree: tree["data"].update(images=RUNS_A_PROGRAM), "not allowed"),
    "peer": (lambda tree: tree["pair"]["peers"]["a"].update(RUNS_A_PROGRAM), "not allowed"),
    "optimizer": (lambda tree: tree["optimizer"].update(_target_="torch.hub.load"), "not allowed"),
    "schedule": (lambda tree: tree["schedule"].update(_target_="os.system"), "not allowed"),
    "deep": (lambda tree: tree["loss"]["classification"].update(x=[[RUNS_A_PROGRAM]]), "not allowed"),
    "task that deletes": (cleans, "task._target_"),
    "callback": (lambda tree: tree["hydra"].update(callbacks={"x": RUNS_A_PROGRAM}), "not allowed"),
    "launcher": (lambda tree: tree["hydra"].update(launcher=RUNS_A_PROGRAM), "not allowed"),
    "environment": (lambda tree: tree["loss"].update(name="${oc.env:SECRET}"), "interpolation"),
    "interpolation in a list": (lambda tree: tree["data"].update(mean=["${oc.env:SECRET}"]), "interpolation"),
    "missing": (lambda tree: tree.pop("optimizer"), "optimizer"),
    "type": (lambda tree: tree.update(seed="0"), "seed"),
    "list": (lambda tree: tree.update(trainer=[1]), "trainer"),
    "newer": (lambda tree: tree.update(config_version=99), "newer"),
    "typed": (lambda tree: tree["hydra"]["overrides"].update(task=[["x"]]), "hydra"),
    "choices": (lambda tree: tree["hydra"]["runtime"].update(choices={"data": 3}), "hydra"),
    "escapes": (lambda tree: tree["data"].update(name=ESCAPES), "data.name"),
}
TEXTS = {
    "python": "seed: !!python/object/apply:os.system ['touch hacked']\n",
    "name": "seed: !!python/name:os.system\n",
    "bomb": BOMB,
    "endless": "data: &d {x: *d}\n",
    "brackets": 2000 * "[",
    "digits": f"seed: {5000 * '9'}\n",
    "binary": "\x00\x01",
    "items": "- 1\n",
    "nothing": "",
    "number": "3\n",
    "word": "false\n",
}
LOOKS = {
    "resume": [f"resume=runs/{NAME}"],
    "evaluate": ["task=evaluate", f"task.checkpoint=runs/{NAME}"],
    "export": ["task=export", f"task.checkpoint=runs/{NAME}", "task.formats=[safetensors]"],
    "features": ["task=features", f"task.checkpoint=runs/{NAME}"],
    "run": ["data=digits", "tracking=none", f"hydra.run.dir=runs/{NAME}"],
}


@pytest.mark.parametrize(
    "look", [look if look == "resume" else pytest.param(look, marks=pytest.mark.full) for look in LOOKS]
)
@pytest.mark.parametrize("hostile", [*CONFIGS, *TEXTS])
def test_a_config_is_refused_and_nothing_of_it_runs(hostile, look, folder, capsys, monkeypatch):
    monkeypatch.setenv("SECRET", "hunter2")
    if hostile in TEXTS:
        (folder / "config.yaml").write_text(TEXTS[hostile])
    else:
        change(folder, CONFIGS[hostile][0])
    before = all_files()
    status, _, err = call(capsys, *LOOKS[look])
    assert status == 2 and err.count("\n") == 1 and len(err) < 2100 and "hunter2" not in err, err
    assert CONFIGS[hostile][1] in err if hostile in CONFIGS else "config" in err
    assert all_files() == before


@pytest.mark.parametrize("hostile", [*CONFIGS, *TEXTS])
@pytest.mark.full
def test_cleaning_leaves_what_no_run_made(hostile, folder, capsys):
    """Else each folder of a program that keeps its settings in a config.yaml would be taken for a run never trained."""
    shutil.rmtree(folder / "checkpoints")
    if hostile in TEXTS:
        (folder / "config.yaml").write_text(TEXTS[hostile])
    else:
        change(folder, CONFIGS[hostile][0])
    assert call(capsys, "task=clean", "task.delete=true")[0] == 0
    assert (folder / "config.yaml").exists()


def test_cleaning_deletes_no_hidden_files(folder, capsys):
    (folder / ".git").mkdir()
    assert call(capsys, "task=clean", "task.delete=true")[0] == 0 and folder.exists()
    (folder / ".git").rmdir()
    (folder / ".record.json.tmp").touch()
    assert call(capsys, "task=clean", "task.delete=true")[0] == 0 and not folder.exists()


@pytest.mark.parametrize("link", ["folder", "checkpoints"])
def test_cleaning_follows_no_link(link, folder, capsys, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    put(folder, status=STATUS | {"state": "finished"}, result={})
    if link == "folder":
        shutil.move(folder, elsewhere / NAME)
        folder.symlink_to(elsewhere / NAME)
        precious = elsewhere / NAME / "checkpoints" / "step-000000001-00001-0123456789abcdef.pt"
    else:
        (folder / "checkpoints").rmdir()
        (folder / "checkpoints").symlink_to(elsewhere)
        precious = elsewhere / "step-000000001-00001-0123456789abcdef.pt"
    precious.write_bytes(b"weights")
    assert call(capsys, "task=clean", "task.delete=true")[0] == 0
    assert precious.read_bytes() == b"weights"


VALUES = [None, 3, True, "text", ESCAPES, "../../../outside", "/outside", [], [1], {}, {"a": {"b": [None]}}, 10**30]
SHAPES = {"null": None, "number": 3, "text": "x", "list": [1], "object": {}}
FILES = {
    "record": RECORD, "status": STATUS, "result": {"final": {}, "peers": {}, "loss": "lmcl", "recipe_key": "c"},
    "delivery": {"id": "a" * 32, "uri": None, "experiment": "mcl_lab", "last_epoch": 0, "error": None},
}  # fmt: skip
TASKS = {
    "report": ["task=report", "task.source=folders"],
    "sync": ["task=sync"],
    "clean": ["task=clean"],
}


@pytest.mark.full
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", FILES)
def test_records_of_any_type(name, task, folder, capsys):
    """Each value of a file replaced by each kind of value, and the file by each kind of JSON: an exit status, no traceback."""
    hostile = [
        FILES[name] | {key: value} for key in FILES[name] for value in VALUES if key != "uri" or value != "/outside"
    ]
    config = cli.checked(TASKS[task])
    hostile += [{key: value for key, value in FILES[name].items() if key != gone} for gone in FILES[name]]
    for content in [*hostile, *SHAPES.values(), "{", "[" * 100_000, "9" * 5000, "\x00"]:
        put(folder, **FILES)
        put(folder, **{name: content})
        status, _, err = call(capsys, config=config)
        assert status in (0, 1, 2) and "Traceback" not in err, (content, err)
        names = {path.name for path in folder.iterdir()}
        assert {path.name for path in Path().iterdir()} == {"runs"} and names <= {
            "config.yaml", "checkpoints", "sender.lock", *(f"{file}.json" for file in FILES)
        }  # fmt: skip


@pytest.mark.parametrize("line", ["[]", "3", "{}", "{", '{"epoch": "x"}', "[" * 100_000,
                                  '{"epoch": 1, "step": 1, "time_ms": 1, "metrics": {"train/loss": "x"}}'])  # fmt: skip
def test_a_journal_of_any_type(line, folder, capsys):
    whole = {"epoch": 1, "step": 1, "time_ms": 1, "metrics": {"train/loss": 1.0}}
    (folder / "metrics.jsonl").write_text(json.dumps(whole) + "\n" + line + "\n")
    for task in TASKS.values():
        assert call(capsys, *task)[0] in (0, 1, 2)


RUN = {
    "folder": f"runs/{NAME}", "run_key": "b" * 64, "pair": "resnet8", "loss": "lmcl", "dataset": "digits", "seed": 0,
    "epochs": 1, "uses_gpu": False, "log": "runs/sweeps/s/logs/x.log", "attempts": [],
}  # fmt: skip
ATTEMPT = {
    "pid": 0, "process_start": None, "host": "h", "gpu": None, "started_ms": 1, "ended_ms": 2, "exit_status": 1,
    "last_words": "no", "job": None, "sweep": None,
}  # fmt: skip
LEDGER = {"format": 2, "launcher": None, "runs": [RUN | {"attempts": [ATTEMPT]}]}


def ledgers():
    for key in RUN:
        yield from (LEDGER | {"runs": [RUN | {key: value}]} for value in VALUES)
    for key in ATTEMPT:
        yield from (LEDGER | {"runs": [RUN | {"attempts": [ATTEMPT | {key: value}]}]} for value in VALUES)
    for key in LEDGER:
        yield from (LEDGER | {key: value} for value in VALUES)
    yield from SHAPES.values()


@pytest.mark.parametrize(
    "action", ["show", *(pytest.param(action, marks=pytest.mark.full) for action in ("cancel", "resubmit"))]
)
def test_ledgers_of_any_type(action, folder, capsys):
    sweep = Path("runs/sweeps/s")
    sweep.mkdir(parents=True)
    before = set(Path().rglob("*"))
    config = cli.checked(["task=sweep", "task.sweep=s", f"task.action={action}"])
    for content in ledgers():
        put(sweep, ledger=content, configs={"/outside": TEXTS["python"]})
        status, _, err = call(capsys, config=config)
        assert status in (0, 1, 2), (content, err)
        assert set(Path().rglob("*")) - before <= {
            sweep / "ledger.json",
            sweep / "configs.json",
            sweep / "ledger.lock",
        }
    put(sweep, ledger=LEDGER | {"format": 99})
    status, _, err = call(capsys, "task=sweep", "task.sweep=s")
    assert status == 1 and "newer" in err


def test_what_is_shown_of_a_sweep_steers_no_terminal(folder, capsys):
    sweep = Path("runs/sweeps/s")
    sweep.mkdir(parents=True)
    put(folder, status=STATUS | {"message": f"mine {ESCAPES}"})
    put(
        sweep,
        ledger=LEDGER | {"runs": [RUN | {"attempts": [ATTEMPT | {"last_words": f"theirs {ESCAPES}", "ended_ms": 0}]}]},
    )
    assert "mine" in call(capsys, "task=sweep", "task.sweep=s")[1]
    put(
        sweep,
        ledger=LEDGER
        | {"runs": [RUN | {"folder": f"runs/{ESCAPES}", "attempts": [ATTEMPT | {"last_words": f"theirs {ESCAPES}"}]}]},
    )
    assert "theirs" in call(capsys, "task=sweep", "task.sweep=s")[1]


def test_a_folder_whose_name_steers_a_terminal(folder, capsys):
    folder.rename(folder.parent / ESCAPES)
    for task in TASKS.values():
        assert call(capsys, *task)[0] in (0, 2)
