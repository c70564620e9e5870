"""A run and its reproduction, side by side on the terminal."""

import math
import shlex
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from mcl_lab.host.screen import show_table, table
from mcl_lab.host.text import as_line
from mcl_lab.results.comparison import Comparison
from mcl_lab.results.original import Original
from mcl_lab.runs.code import CHANGED
from mcl_lab.runs.provenance import changes_file
from mcl_lab.terminal.output import show_lines

SHOWN = {
    "git_commit": "commit",
    "changes": "changes of the code",
    "device_type": "device type",
    "initial_weights": "initial weights",
}


def show_reproduction(
    console: Console,
    original: Original,
    folder: Path,
    differing: Mapping,
    compared: Comparison,
) -> None:
    """Print what came out, and what differs of how the two were trained, by name (then, now)."""
    made = table(f"Test accuracy (%) of {original.name}", ["metric"], ["original", "again", "difference"])
    for name, (one, other) in compared.final.items():
        distance = "" if one is None or other is None else f"{other - one:+.2f}"
        made.add_row(name.replace("/", ": ").replace("_", " "), _number(one), _number(other), distance)
    console.print()
    show_table(console, made)
    lines = [("folder", str(folder)), ("weights", _weights(compared)), ("epochs", _epochs(compared))]
    lines += [("not compared", note) for note in compared.notes]
    for name, pair in differing.items():
        lines.append(("differs", f"{SHOWN.get(name, name)}: {' -> '.join(map(as_line, pair))}"))
    if len(original.environments) > 1:
        stretches = ", ".join(
            f"from step {as_line(there.get('step'))} {as_line(there.get('git_commit'))[:12]}, {as_line(there.get('device'))}, "
            f"{as_line(there.get('threads'))} threads"
            for there in original.environments
        )
        lines.append(("was resumed", f"elsewhere or by other code: {stretches}"))
    lines += [("the old code", command) for command in old_code(original, differing)]
    show_lines(console, lines)


def old_code(original: Original, differing: Mapping) -> list[str]:
    """The commands that bring back the code of the original, when it is not that of now."""
    was = original.environments[-1]
    commit = as_line(was.get("git_commit", "unknown")).removesuffix(CHANGED)
    if not differing.keys() & {"git_commit", "changes"} or commit == "unknown":
        return []
    commands = [f"git checkout {shlex.quote(commit)}"]
    if name := changes_file(original.environments, was):
        fetching = [f"{original.get_changes} {name}"] if original.get_changes else []
        path = name if original.get_changes else str(original.folder.absolute() / name)
        commands += [*fetching, f"git apply {shlex.quote(path)}"]
    return commands


def _weights(compared: Comparison) -> str:
    if compared.weights is None:
        return "not known of the original"
    how = f"{compared.tensors} tensors" if compared.tensors else "by their checksum"
    if compared.weights:
        return f"equal to the bit ({how})"
    if not compared.tensors:
        return f"differ ({how})"
    return f"{compared.different_tensors} of {how} differ, by {compared.largest_weight_difference:.3g} at most"


def _epochs(compared: Comparison) -> str:
    first, largest = compared.first, compared.largest
    if first is None or largest is None:
        return f"all metrics of {compared.epochs} epochs are equal"
    distance = f"{largest.distance:.3g}" if math.isfinite(largest.distance) else "missing"
    return (
        f"the first to differ is epoch {first.epoch}, {first.metric}: {as_line(first.original)} -> {as_line(first.again)}; "
        f"largest difference {distance} (epoch {largest.epoch}, {largest.metric})"
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value)
