"""YAML whose aliases multiply: a kilobyte of it can stand for more values than a machine has memory for."""

import yaml

LARGEST = 100_000  # nodes of a file, each counted as often as an alias repeats it


def refuse_multiplied(text: str) -> None:
    """Raise yaml.YAMLError for a text that is no YAML, or that aliases make too large or endless."""
    if "*" in text and "&" in text:  # else there is no alias
        _size(yaml.compose(text, Loader=yaml.SafeLoader), {})


def _size(node: yaml.Node | None, sizes: dict[int, int | None]) -> int:
    """The nodes in a node; `sizes` of those seen so far, None while they are being counted."""
    if not isinstance(node, yaml.CollectionNode):
        return 1
    if id(node) not in sizes:
        sizes[id(node)] = None
        children = [part for item in node.value for part in (item if isinstance(item, tuple) else [item])]
        sizes[id(node)] = 1 + sum(_size(child, sizes) for child in children)
    size = sizes[id(node)]
    if size is None or size > LARGEST:
        raise yaml.YAMLError("its aliases make it too large")
    return size
