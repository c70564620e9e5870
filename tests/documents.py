"""What the documents show: their fenced blocks, and each command in these and in their sentences."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

HOUSE = Path(__file__).resolve().parents[1]
DOCUMENTS = [*sorted((HOUSE / "docs").glob("*.md")), HOUSE / "README.md", HOUSE / "CONTRIBUTING.md"]

# A command is known by its beginning; one that is not fails a test.
KINDS = {
    "run": r"(\w+=\S+ )*(\.venv/bin/)?python run\.py\b",
    "pytest": r"(\.venv/bin/)?python -m pytest\b",
    "module": r"python -m mcl_lab\.",
    "table": r"python tests/networks/torchvision_table\.py ",  # what it makes, networks/test_torchvision_backbone.py compares
    "cluster": r"python tests/slurm/cluster\.py ",
    "server": r"mlflow (server|ui) ",
    "check": r"(ruff|mypy)\b",
    # They change the machine, or take the net: .ci/run does what they say, from README's own line, before any test.
    "install": r"python3 -m venv |\.venv/bin/pip install |pip install |sudo apt-get install ",
}
# What is said in capitals stands for something of the reader's own.
PLACEHOLDERS = [
    (r"\bruns/[\w.]+-\w+-s\d+-[0-9a-f]{8}\b", "runs/FOLDER"),
    (r"\b(data\.root=)FOLDER\b", r"\1images"),
    (r"\b(resume=)FOLDER\b", r"\1runs/FOLDER"),
    (r"\b(task\.sweep=)NAME\b", r"\1homogeneous"),
    (r"\btests/PATH\b", "tests/config/test_run_key.py"),
    (r"\S+://USER:PASSWORD@DBHOST/mlflow\b", "sqlite:///server.db"),  # README says that it will do as well
    (r"/FOLDER/artifacts\b", "artifacts"),
    (r"\b(up|down) FOLDER\b", r"\1 cluster"),
]
FILE = re.compile(r"# ([\w/]+\.(?:py|yaml))\n")  # the first line of a block that is a file of the reader's own
_CAPITALS = re.compile(r"(?<![\w$])[A-Z]{3,}\b(?!_|=)")
_COMMENT = re.compile(r"""('[^']*'|"(?:[^"\\]|\\.)*")|(?:^|(?<=\s))\#.*""")


class Block(NamedTuple):
    document: Path
    line: int  # of its first line
    language: str
    text: str  # as far to the left as the fence


class Command(NamedTuple):
    document: Path
    line: int
    text: str  # one simple command, without its comment; `> FILE` may follow
    said: str = ""  # what the document shows of its output
    beside: tuple[str, ...] = ()  # the settings that its comment proposes

    @property
    def kind(self) -> str | None:
        return next((kind for kind, beginning in KINDS.items() if re.match(beginning, self.text)), None)

    def filled(self, run: str) -> str:
        """With something real for each placeholder. run: a run folder's name."""
        text = filled(self.text, run)
        assert not _CAPITALS.search(text), f"{self.document.name}:{self.line}: what does {text} stand for?"
        return text

    def __str__(self):
        return f"{self.document.name}:{self.line}: {self.text}"


def text_of(document: Path) -> str:
    return document.read_text(encoding="utf-8")


def blocks(document: Path) -> Iterator[Block]:
    lines = iter(enumerate(text_of(document).splitlines(), 1))
    for number, line in lines:
        if fence := re.fullmatch(r"([ \d.*+-]*)(`{3,}|~{3,})(\S*) *", line):
            before, marks, language = fence.groups()
            inside = []
            for _, inner in lines:
                if re.fullmatch(rf" *{marks} *", inner):
                    break
                inside.append(inner.removeprefix(" " * len(before)))
            yield Block(document, number + 1, language, "".join(f"{line}\n" for line in inside))


def commands(document: Path) -> Iterator[Command]:
    """Those of its bash blocks; behind a `$` in its console blocks, with what they answer; in backticks in its text."""
    for block in blocks(document):
        if block.language == "bash":
            yield from _typed(block)
        elif block.language == "console":
            for number, shown in enumerate(re.split(r"^(?=\$ )", block.text, flags=re.MULTILINE)[1:]):
                line, said = shown.removeprefix("$ ").split("\n", 1)
                yield Command(document, block.line + number, line, said)
    for number, line in enumerate(_outside_of_blocks(document), 1):
        for text in re.findall(r"`((?:\.venv/bin/)?(?:python|mlflow|pip) [^`]+)`", line):
            yield Command(document, number, text)


def filled(text: str, run: str) -> str:
    for placeholder, real in PLACEHOLDERS:
        text = re.sub(placeholder, real, text)
    return re.sub(r"\bruns/FOLDER\b", f"runs/{run}", text)


def parsed(text: str) -> tuple[dict[str, str], list[str], str | None]:
    """(environment, words, the file that takes the output) of a simple command that needs no more of a shell."""
    lexer = shlex.shlex(text, posix=True, punctuation_chars=True)
    lexer.whitespace_split, lexer.commenters = True, ""
    words, environment, file = list(lexer), {}, None
    if words[-2:-1] == [">"]:
        *words, _, file = words
    while re.match(r"\w+=", words[0]):
        name, _, environment[name] = words.pop(0).partition("=")
    wild = [word for word in words if set(word) <= set("();<>|&")]
    assert not wild and not re.search(r"[$`\\]", text), f"only a shell knows what this means: {text}"
    return environment, words, file


def _typed(block: Block) -> Iterator[Command]:
    lines = enumerate(block.text.splitlines(), block.line)
    for number, line in lines:
        text = _without_comment(line)
        beside = re.findall(r"(?<![\w./])[a-z]\w*(?:\.[a-z]\w*)+=\w+", line[len(text) :])
        while text.endswith("\\"):
            text = f"{text[:-1].rstrip()} {_without_comment(next(lines)[1]).strip()}"
        for simple in re.split(r" *&& *", text.strip()):
            if simple:
                yield Command(block.document, number, simple, beside=tuple(beside))


def _without_comment(line: str) -> str:
    return _COMMENT.sub(lambda found: found[1] or "", line).rstrip()


def _outside_of_blocks(document: Path) -> list[str]:
    """Its lines, those within fences empty."""
    lines = text_of(document).splitlines()
    for block in blocks(document):
        for number in range(block.text.count("\n")):
            lines[block.line - 1 + number] = ""
    return lines


COMMANDS = [command for document in DOCUMENTS for command in commands(document)]
FILES = [block for document in DOCUMENTS for block in blocks(document) if FILE.match(block.text)]
_SUBMITTED = [command.text for command in COMMANDS if re.search(r"\bhydra/launcher=(slurm|mysite)\b", command.text)]


def write_files(folder: Path) -> None:
    """Those of the reader's own."""
    for block in FILES:
        path = folder / FILE.match(block.text)[1]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.text, encoding="utf-8")


def is_for_slurm(command: Command) -> bool:
    """Whether it submits, asks whether it could, or looks at what another one has submitted."""
    submitted = [text for text in _SUBMITTED if "dry_run=true" not in text]
    names = {name for text in submitted for name in re.findall(r"\+sweeps=(\w+)", text)}
    named = re.search(r"\btask\.sweep=(\w+)", command.text)
    return command.text in _SUBMITTED or bool(named and named[1] in names)
