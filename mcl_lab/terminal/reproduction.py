"""A run and its reproduction, side by side on the terminal."""

import shlex
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from mcl_lab.host.screen import table
from mcl_lab.host.text import as_line
from mcl_lab.results.comparison import Comparison
from mcl_lab.results.original import Original
from mcl_lab.runs.code import CHANGED
from mcl_lab.runs.provenance import changes_file

SHOWN = {"git_commit": "commit", "changes": "changes of the code", "device_type": "device type"}


def show(original: Original, folder: Path, differing: Mapping, compared: Comparison, console: Console) -> None:
    made = table(f"Test accuracy (%) of {original.name}", ["figure"], ["original", "again", "difference"])
    for name, (one, other) in compared.final.items():
        distance = "" if one is None or other is None else f"{other - one:+.2f}"
        made.add_row(name.replace("/", ": ").replace("_", " "), _number(one), _number(other), distance)
    console.print()
    console.print(made)
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
    for name, text in lines:
        console.print(f"{name:<13}  {text}", soft_wrap=True)


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
    if compared.first is None:
        return f"all figures of {compared.epochs} epochs are equal"
    epoch, name, one, other = compared.first
    at, most, before, after = compared.largest
    distance = "missing" if before is None or after is None else f"{abs(after - before):.3g}"
    return (
        f"the first to differ is epoch {epoch}, {name}: {as_line(one)} -> {as_line(other)}; largest difference {distance} "
        f"(epoch {at}, {most})"
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value)
