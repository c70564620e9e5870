"""The keys of a YAML file with what is written beside them: its values as they stand there, and its comments."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import yaml


class Entry(NamedTuple):
    """A key in a file. value: as it is written there, of a node its `_target_`; comment: what stands beside the key."""

    key: str
    value: str
    comment: str
    is_node: bool = False


def entries(file: Path) -> Iterator[Entry]:
    """The keys of a file in their order, a node before its own; the key of the file's own node is empty."""
    text = file.read_text(encoding="utf-8")
    yield from _walk(yaml.compose(text, Loader=yaml.SafeLoader), "", "", text)


def _walk(node: yaml.Node | None, prefix: str, comment: str, text: str) -> Iterator[Entry]:
    children = {key.value: (key, value) for key, value in node.value} if isinstance(node, yaml.MappingNode) else {}
    if "_target_" in children:
        yield Entry(prefix.removesuffix("."), children["_target_"][1].value, comment, is_node=True)
    for name, (key, value) in children.items():
        if name in ("_target_", "defaults"):
            continue
        is_block = isinstance(value, yaml.MappingNode) and not value.flow_style
        beside = _comment(text, key.end_mark if is_block else value.end_mark)
        if is_block:
            yield from _walk(value, f"{prefix}{name}.", beside, text)
        else:
            yield Entry(prefix + name, text[value.start_mark.index : value.end_mark.index], beside)


def _comment(text: str, mark: yaml.Mark) -> str:
    rest = text[mark.index :].partition("\n")[0]
    return rest.partition("#")[2].strip().rstrip(",")
