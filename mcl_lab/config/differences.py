"""In what two plain configs differ."""

from collections.abc import Mapping

from mcl_lab.config.plain import leaves


def differences(ours: Mapping, theirs: Mapping) -> list[str]:
    """The leaves in which two plain configs differ, as lines `optimizer.lr: 0.1 -> 0.2`."""
    before, after = dict(leaves(ours)), dict(leaves(theirs))
    return [
        f"{key}: {_as_typed(before.get(key, '(none)'))} -> {_as_typed(after.get(key, '(none)'))}"
        for key in sorted(before.keys() | after.keys())
        if key not in before or key not in after or before[key] != after[key]
    ]


def changes(ours: Mapping, theirs: Mapping) -> dict[str, str]:
    """What makes a plain config differ from ours, as one would type it: dotted key to value, `null` for a node
    that is gone."""
    before, after = dict(leaves(ours)), dict(leaves(theirs))
    changed = {key: value for key, value in after.items() if key not in before or before[key] != value}
    changed |= dict.fromkeys(filter(None, (_gone(key, after) for key in before.keys() - after.keys())))
    return {key: _as_typed(changed[key]) for key in sorted(changed)}


def _as_typed(value: object) -> str:
    return "null" if value is None else str(value)


def _gone(key: str, after: Mapping[str, object]) -> str | None:
    """The outermost node on the way to `key` of which `after` has nothing; None when it has a plain value there."""
    parts = key.split(".")
    for path in (".".join(parts[:depth]) for depth in range(1, len(parts) + 1)):
        if path in after:
            return None
        if not any(name.startswith(f"{path}.") for name in after):
            return path
    return None
