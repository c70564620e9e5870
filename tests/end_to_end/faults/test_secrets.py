"""Passwords and tokens are written nowhere: not one byte of them in any file, output or command line."""

import base64
import os
import secrets
import subprocess
import threading
from contextlib import suppress
from functools import partial
from pathlib import Path
from urllib.parse import quote

import pytest
from bad_server import BadServer, RealServer
from mlflow_server import wait_until
from training_runs import ALONE, end, start, status

from mcl_lab import cli as run_py
from mcl_lab.errors import InputError
from mcl_lab.host.secrets import without_credentials, without_secrets
from mcl_lab.host.uri import stored_uri
from mcl_lab.runs.code import take_snapshot
from mcl_lab.tracking.delivery import is_delivered

VARIABLES = [
    "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "DATABRICKS_TOKEN",
    "PGPASSWORD", "MYSQL_PWD", "SOME_API_KEY", "client_secret", "MY_PASSWORD_2",
]  # fmt: skip
PLUGIN = """
import os
from torch import nn

class Fails(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, inputs):
        self.calls += 1
        if self.calls < 4:  # not before there is a run folder
            return {{"odd": inputs.logits[0][-1].sum()}}
        secrets = [os.environ[name] for name in {names}]
        server = f"postgresql://ann:{{secrets[0]}}@db/x?sslpassword=1234"
        raise RuntimeError(f"no way to {{server}} with {{secrets}} at {{os.environ['WHERE']}}")
"""


class Canaries:
    """Passwords of a kind that is hard to find: of pieces between characters that URIs, JSON and Python write otherwise."""

    def __init__(self):
        self.pieces: list[str] = []

    def new(self, between: str = "@:/%40'\"") -> str:
        pieces = [secrets.token_hex(8) for _ in range(len(between) + 1)]
        self.pieces += pieces
        return "".join(piece + mark for piece, mark in zip(pieces, [*between, ""], strict=True))

    def found_in(self, content: bytes) -> list[str]:
        return [piece for piece in self.pieces if piece.encode() in content]


def assert_clean(canaries: Canaries, *texts: str | bytes) -> None:
    for text in texts:
        content = text if isinstance(text, bytes) else text.encode()
        for piece in canaries.found_in(content):
            where = content.index(piece.encode())
            pytest.fail(f"{content[max(0, where - 200) : where + 60]!r}")


def assert_clean_folder(canaries: Canaries, folder: Path, *, but: tuple[Path, ...] = ()) -> None:
    files = [path for path in folder.rglob("*") if path.is_file() and path not in but]
    assert files
    for path in files:
        if found := canaries.found_in(path.read_bytes()):
            pytest.fail(f"{path}: {found}")


@pytest.fixture
def canaries():
    return Canaries()


@pytest.fixture(autouse=True)
def surroundings(monkeypatch):
    for name in [name for name in os.environ if name.startswith(("SLURM_", "MLFLOW_", "FORCE_COLOR"))]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize("name", VARIABLES)
def test_values_of_the_environment_are_blotted_out_however_they_are_written(name, canaries):
    secret = canaries.new()
    user = {"MLFLOW_TRACKING_USERNAME": "ann"}
    basic = base64.b64encode(f"ann:{secret}".encode()).decode()
    forms = [secret, quote(secret), quote(secret, safe=""), repr(secret), f"http://ann:{quote(secret)}@host/x"]
    for form in forms:
        text = without_secrets(f"it said {form}; {{'Authorization': 'Basic {basic}'}}", user | {name: secret})
        assert_clean(canaries, text)
        assert text.startswith("it said ")
        assert name != "MLFLOW_TRACKING_PASSWORD" or basic not in text


def test_what_is_no_secret_stays():
    environment = {
        "TOKENIZERS_PARALLELISM": "false", "AWS_ACCESS_KEY_ID": "public", "PWD": "/home/me", "OLDPWD": "/home",
        "MLFLOW_TRACKING_USERNAME": "ann", "EMPTY_TOKEN": "", "SHORT_TOKEN": "1", "SSH_ASKPASS": "/usr/bin/ask",
    }  # fmt: skip
    text = (
        "false public /home/me ann 1 http://host:5000/a?b=c sqlite:////home/me@there/x.db me@x.org a@b file:///x@y"
        " uri: postgresql://db/runs?sslmode=require&connect_timeout=3"
    )
    assert without_secrets(text, environment) == without_credentials(text) == text


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("uri: http://ann:PIECE@host:5000/x", "uri: http://host:5000/x"),
        ("'http://ann:PIECE@PIECE@host'", "'http://host'"),
        ("http://ann:PIECE/PIECE@host/y", "http://host/y"),
        ("http://PIECE@host and ftp://PIECE:@other", "http://host and ftp://other"),
        ("a?password=PIECE&b=1", "a?password=***&b=1"),
        ("postgresql://db/x?user=me&sslpassword=PIECE%40PIECE", "postgresql://db/x?user=me&sslpassword=***"),
        ("mssql://db/x?PWD=PIECE;a=b", "mssql://db/x?PWD=***;a=b"),
        ("http://ann:PI\"E'CE@host", "http://host"),
    ],
)
def test_credentials_leave_uris_and_nothing_else_does(given, kept):
    assert without_credentials(given) == kept


@pytest.mark.parametrize(
    "uri",
    ["http://ann:12/geheim@host", "http://ann:geheim@ho/st@host", "postgresql://db/x?password=geheim", "http://h/?a=1&token=geheim",
     "postgresql://db/x?sslmode=on&sslpassword=geheim", "mysql://db/x?passwd=geheim", "http://ann:gehe im@host",
     "http://host/x#access_token=geheim"],
)  # fmt: skip
def test_a_password_where_it_would_be_written_down_is_refused(uri):
    with pytest.raises(InputError, match=r"^tracking\.uri: ") as error:
        stored_uri(uri)
    assert "geheim" not in str(error.value) and "gehe" not in str(error.value)


def test_a_snapshot_of_changes_that_hold_a_password(canaries, tmp_path):
    house, extra = tmp_path / "house", tmp_path / "extra"
    (house / "conf").mkdir(parents=True)
    extra.mkdir()
    (house / "conf" / "old.yaml").write_text("uri: null\n")
    git = ["git", "-C", str(house), "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *words], check=True)
    uri = partial("http://ann:{}@host:5000".format)
    (house / "conf" / "old.yaml").write_text(f"uri: {uri(canaries.new('@:/%40'))}\n")
    (house / "conf" / "new.yaml").write_text(f'uri: "postgresql://db/x?password={canaries.new("%")}&a=b"\n')
    (extra / "mine.yaml").write_text(f"uri: {uri(canaries.new())}\nb: 1\n")
    snapshot = take_snapshot(house, tmp_path / "code", clean=without_credentials, config_dir=extra)
    assert_clean_folder(canaries, snapshot)
    assert (snapshot / "config_dir" / "mine.yaml").read_text() == "uri: http://host:5000\nb: 1\n"
    assert (snapshot / "conf" / "new.yaml").read_text() == 'uri: "postgresql://db/x?password=***&a=b"\n'
    assert "+uri: http://host:5000" in (snapshot / "changes.diff").read_text()


@pytest.mark.full
def test_no_byte_of_a_password_anywhere(canaries, tmp_path, monkeypatch, capfd):
    server_folder, cwd, given = tmp_path / "server", tmp_path / "cwd", tmp_path / "given"
    for folder in (server_folder, cwd, given / "tracking"):
        folder.mkdir(parents=True)
    from mcl_lab.tracking.mlflow.store import MlflowClient

    real = RealServer(server_folder)
    MlflowClient(tracking_uri=f"sqlite:///{real.database}").search_experiments()
    real.start()
    server = BadServer(real)
    address = server.uri.removeprefix("http://")

    def uri() -> str:
        return f"http://ann:{quote(canaries.new(), safe='')}@{address}"

    typed = f"http://ann:{(first := canaries.new('@:'))}@{address}"
    (given / "tracking" / "mine.yaml").write_text(f"uri: {uri()}\nexperiment: mcl_lab\nwait: 60\n")
    (given / "plug.py").write_text(PLUGIN.format(names=VARIABLES[2:]))
    environment = {name: canaries.new() for name in VARIABLES[2:]} | {"WHERE": uri(), "URI": uri()}
    environment |= {"PYTHONPATH": str(given), "MCL_LAB_PLUGINS": "plug"}
    password = {"MLFLOW_TRACKING_USERNAME": "ann", "MLFLOW_TRACKING_PASSWORD": canaries.new()}
    canaries.pieces.append(base64.b64encode(":".join(password.values()).encode()).decode())  # as the server hears it
    token = {"MLFLOW_TRACKING_TOKEN": canaries.new("")}
    words = [*ALONE, "tracking.wait=60"]
    outputs, lines, typed_lines, over = [], set(), set(), threading.Event()

    def watch() -> None:
        while not over.wait(0.02):
            for process in Path("/proc").glob("[0-9]*"):
                with suppress(OSError):
                    lines.add((process / "cmdline").read_bytes())

    def begin(*arguments: str, **more: str):
        process = start(arguments, cwd, env=os.environ | environment | more)
        typed_lines.add(b"".join(os.fsencode(word) + b"\0" for word in process.args))  # the user's own doing
        return process

    def finish(process):
        ended = end(process)
        outputs.extend((ended.out, ended.err))
        return ended

    def run(*arguments: str, **more: str):
        return finish(begin(*arguments, **more))

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        # A server that takes all, by each way in; a run that fails, with all that it knows in its last words.
        runs = [
            begin(*words, "seed=0", f'tracking.uri="{typed}"'),
            begin(*words, "seed=1", "tracking.uri=${oc.env:URI}"),
            begin(*words, "seed=2", f"--config-dir={given}", "tracking=mine"),
            begin(*words, "-m", "seed=3,4", f'tracking.uri="{uri()}"'),
        ]
        failing = begin(*words, "seed=5", f'tracking.uri="{uri()}"', "+loss.odd._target_=plug.Fails")
        for ended in map(finish, runs):
            assert ended.status == 0 and "MLflow UI" in ended.out, ended.err
        assert "Basic " + base64.b64encode(f"ann:{first}".encode()).decode() in server.heard
        ended = finish(failing)
        assert ended.status == 1 and "no way to" in ended.err
        wait_until(lambda: is_delivered(failed_folder(cwd)))
        # One that answers with what it heard.
        for seed, fault, secret, header in ((6, 401, password, "Basic "), (7, 403, token, "Bearer ")):
            server.fault = fault
            ended = run(*words, f"seed={seed}", f"tracking.uri={server.uri}", **secret)
            assert ended.status == 0 and "not yet recorded" in ended.out
            assert any(heard.startswith(header) for heard in server.heard)
        server.well()
        # What is refused.
        refused = [
            f"tracking.uri=postgresql://db/x?password={canaries.new('')}",
            f'tracking.uri="postgresql://db/x?sslpassword={canaries.new("%")}"',
            f"tracking.uri=http://ann:{canaries.new('')}/{canaries.new('')}@host",
            f"tracking={{uri:http://ann:{canaries.new('')}@host}}",
            f"tracking.uri=http://ann:{canaries.new('')}{{@host",
            f'+tracking.url="{uri()}"',
        ]
        monkeypatch.chdir(cwd)
        for word in refused:
            for seeds in (["seed=10"], ["-m", "seed=10,11"]):
                assert run_py.main([*words, *seeds, word]) == 2
        outputs.extend(capfd.readouterr())
        # And what looks at all of it.
        looking = [
            begin("--cfg", "job", "--resolve", *words, "tracking.uri=${oc.env:URI}"),
            begin("task=sync", **password),
            begin("task=report", "task.source=mlflow", f'tracking.uri="{uri()}"'),
        ]
        assert [ended.status for ended in map(finish, looking)] == [0, 0, 0]
    finally:
        over.set()
        watching.join()
        server.stop()
        real.kill()
    folders = [path.parent for path in cwd.glob("runs/*/record.json")]
    assert sorted(map(status, folders)) == ["failed"] + ["finished"] * 7
    for folder in (cwd, server_folder):
        assert_clean_folder(canaries, folder)
    assert_clean(canaries, *outputs, *(lines - typed_lines))
    assert any(b"mcl_lab.tracking.sender" in line for line in lines)


def failed_folder(cwd: Path) -> Path:
    (folder,) = [path.parent for path in cwd.glob("runs/*/status.json") if '"failed"' in path.read_text()]
    return folder
