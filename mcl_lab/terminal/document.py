"""docs/config.md, from the YAML files and the signatures that they are checked by.

python -m mcl_lab.terminal.document > docs/config.md
"""

import ast
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import yaml

from mcl_lab.config import schema
from mcl_lab.config.catalogue import GROUPS, KINDS, Option, catalogue, default_options, kind_of_pair
from mcl_lab.config.compose import CONF
from mcl_lab.config.signatures import signature_of
from mcl_lab.config.sweeps import expand
from mcl_lab.config.values import describe
from mcl_lab.terminal.yaml_comments import Entry, entries

COMMAND = "python -m mcl_lab.terminal.document > docs/config.md"
PEER = "pair.peers.NAME"
_NO_GROUP = "Keys of no group"
_TOP = f"""\
<!-- Made by `{COMMAND}`: change the YAML files and signatures that it is made of. -->

# The config

A run is composed from one option of each group, by Hydra; any value can be given by its key:

```bash
python run.py pair=wrn_16_2 optimizer=adamw optimizer.lr=0.002 trainer.epochs=200
python run.py --cfg job                    # all of it, composed; with any of the above
python run.py task=list task.group=loss    # the options of a group, those of a --config-dir too
```

`~KEY` removes a key, `+KEY=VALUE` adds one that a file leaves out (`+optimizer.dampening=0.1`); what no signature has
is refused. *Required*: the file has no value for it. `NAME` is that of a peer, `a` and `b` in the pairs below.
"""
_INTRODUCTIONS = {
    "experiment": "Sets options and values of other groups; what is typed beside it counts more.",
    "pair": "They are called `a`, `b` and so on; each is an option of [network](#network).",
    "network": "`+network@pair.peers.c=OPTION` adds another, `~network@pair.peers.c` removes it.",
    "loss": "A sum of weighted terms. A term goes with weight 0, a whole node with `loss.NODE=null`.",
    "optimizer": "Other arguments of the class join with a `+`. `_target_` may be any class of `torch.optim`.",
    "hydra/launcher": "For `-m` and `+sweeps=NAME`.",
    "sweeps": "With `seed=0,1,2` beside it there are three times as many.",
}


def document() -> str:
    """The text of docs/config.md."""
    found = catalogue()
    sections = [line for group, options in found.items() for line in _section(group, options)]
    return "\n".join([_TOP, *_overview(found), *_without_group(), *sections]).rstrip("\n") + "\n"


def _overview(found: dict[str, list[Option]]) -> Iterator[str]:
    defaults = default_options()
    rows = [
        [f"[`{group}`](#{_anchor(group)})", GROUPS[group], _code(defaults.get(group, "")), str(len(options))]
        for group, options in found.items()
    ]
    yield from _table(["group", "what it is", "default", "options"], rows)
    yield f"And [keys of no group](#{_anchor(_NO_GROUP)})."
    yield ""


def _without_group() -> Iterator[str]:
    fields = schema.declared(schema.Config) | {"hydra.run.dir": "str"}
    yield f"## {_NO_GROUP}"
    yield ""
    found = [entry for entry in entries(CONF / "config.yaml") if entry.key in fields]
    rows = [[_code(entry.key), _code(entry.value), _type(fields[entry.key]), entry.comment] for entry in found]
    yield from _table(["key", "default", "type", "what it is"], rows)


def _section(group: str, options: Sequence[Option]) -> Iterator[str]:
    yield f"## {group}"
    yield ""
    yield f"{_sentence(_with_commands(GROUPS[group]))} {_INTRODUCTIONS.get(group, '')}".rstrip()
    yield ""
    yield from _options(group, options)
    if group in ("experiment", "pair", "sweeps"):
        return
    alike: dict[tuple, list[tuple[Option, list[Entry]]]] = {}
    for option in options:
        if not _inherited(option.file):
            own = list(entries(option.file))
            shape = tuple((entry.key, _type_of(group, entry, own)) for entry in own)
            alike.setdefault(shape, []).append((option, own))
    for members in alike.values():
        yield from _keys(group, members)


def _options(group: str, options: Sequence[Option]) -> Iterator[str]:
    default = default_options().get(group)
    titles, rows = ["option", "what it is"], []
    if group == "pair":
        titles, more = [*titles, "kind"], [KINDS[kind_of_pair(option.file)] for option in options]
    elif group == "sweeps":
        titles, more = [*titles, "runs"], [str(len(expand([option.name], []))) for option in options]
    elif any(more := [_sets(option.file) for option in options]):
        titles.append("sets")
    for option, further in zip(options, more, strict=True):
        name = _code(option.name) + (" (default)" if option.name == default else "")
        rows.append([name, option.line, further][: len(titles)])
    if group == "pair":
        rows.sort(key=lambda row: list(KINDS.values()).index(row[2]))
    yield from _table(titles, rows)


def _keys(group: str, members: Sequence[tuple[Option, list[Entry]]]) -> Iterator[str]:
    """The keys of options that differ in values alone."""
    rows = []
    for alike in zip(*(own for _, own in members), strict=True):
        entry = alike[0]
        values: dict[str, list[str]] = {}
        for (option, _), one in zip(members, alike, strict=True):
            values.setdefault(_value(one, option), []).append(option.name)
        shown = [value if len(values) == 1 else f"{value} {', '.join(names)}" for value, names in values.items()]
        kind = _type_of(group, entry, members[0][1])
        comment = next((one.comment for one in alike if one.comment), "")
        said = "" if kind == f"one of {comment}" else comment
        rows.append([_code(_full(group, entry.key)), "<br>".join(shown), kind, said])
    if [entry.key for entry in members[0][1]] == [""]:
        return  # nothing to set
    yield f"### {group}={', '.join(option.name for option, _ in members)}"
    yield ""
    yield from _table(["key", "default", "type", "what it is"], rows)


def _defaults(file: Path) -> list[str | dict]:
    return (yaml.safe_load(file.read_text(encoding="utf-8")) or {}).get("defaults", [])


def _inherited(file: Path) -> list[str]:
    """The options of its own group that a file changes."""
    return [entry for entry in _defaults(file) if isinstance(entry, str) and entry != "_self_"]


def _sets(file: Path) -> str:
    """What a file sets that is not written out below, as one would type it; empty when all of it is."""
    chosen = [entry for entry in _defaults(file) if isinstance(entry, dict)]
    words = [f"{key.removeprefix('override /')}={option}" for entry in chosen for key, option in entry.items()]
    if not words and not _inherited(file):
        return ""
    words += [f"{entry.key}={entry.value}" for entry in entries(file) if entry.key != "name"]
    inherited = [f"{_code(name)} with" for name in _inherited(file)]
    return " ".join([*inherited, *map(_code, words)])


def _value(entry: Entry, option: Option) -> str:
    if entry.is_node:
        return _source(entry.value)
    return "the option's name" if (entry.key, entry.value) == ("name", option.name) else _code(entry.value)


def _full(group: str, key: str) -> str:
    """A key of a group's file as it is on the command line."""
    package = PEER if group == "network" else group.replace("/", ".")
    return f"{package}.{key}" if key else package


def _type_of(group: str, entry: Entry, file: Iterable[Entry]) -> str:
    """The type and range of a key, by the dataclass or the class of the node that it belongs to; empty for a node."""
    if entry.is_node:
        return ""
    parent, _, name = entry.key.rpartition(".")
    declared = schema.Network if group == "network" else schema.SECTIONS.get(group)
    fields = schema.declared(declared) if declared and not parent else {}
    if name in fields:
        return _type(fields[name])
    (target,) = [node.value for node in file if node.is_node and node.key == parent]
    taken = signature_of(_full(group, parent), target).parameters.get(name)
    return _type(taken, schema.RANGES.get(_full(group, entry.key)))


def _type(annotation: ast.expr | str | None, within: str | None = None) -> str:
    if annotation is None:
        return ""
    return describe(ast.Constant(annotation) if isinstance(annotation, str) else annotation, within)


def _source(target: str) -> str:
    """A class or function, one of ours with a link to its file."""
    module, _, name = target.rpartition(".")
    return f"[`{name}`](../{module.replace('.', '/')}.py)" if module.startswith("mcl_lab.") else _code(target)


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(titles)} |"
    yield "|" + "---|" * len(titles)
    for row in rows:
        yield f"| {' | '.join(map(_cell, row))} |"
    yield ""


def _cell(text: str) -> str:
    """Text of a table: outside of code nothing that Markdown takes for more than it is."""
    parts = re.split(r"(`[^`]*`|<br>)", _with_commands(text).replace("|", r"\|"))
    return "".join(part if index % 2 else re.sub(r"([*<])", r"\\\1", part) for index, part in enumerate(parts))


def _with_commands(text: str) -> str:
    """What one would type, KEY=VALUE, as code: GitHub takes `network@pair.peers.b=x` for an address."""
    parts = re.split(r"(`[^`]*`)", text)
    typed = re.compile(r"(?<!\S)[+~]?[\w./@]+=[\w/]+(\.\w+)*")
    return "".join(part if index % 2 else typed.sub(r"`\g<0>`", part) for index, part in enumerate(parts))


def _code(text: str) -> str:
    return {"": "", "???": "required"}.get(text, f"`{text}`")


def _anchor(title: str) -> str:
    """As GitHub makes it of a heading."""
    return re.sub(r"[^\w-]", "", title.lower().replace(" ", "-"))


def _sentence(words: str) -> str:
    return f"{words[0].upper()}{words[1:]}."


if __name__ == "__main__":
    print(document(), end="")
