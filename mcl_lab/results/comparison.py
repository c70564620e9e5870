"""Two trainings of one run, compared: final weights bit for bit, every epoch's figures, the final figures."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mcl_lab.runs.checkpoints import UnusableCheckpoint, networks_file, read
from mcl_lab.runs.journal import Damaged, read_epochs
from mcl_lab.runs.layout import RunFolder
from mcl_lab.runs.result import read_result

CLOCK = {"train/seconds", "train/images_per_second", "train/evaluation_seconds"}  # figures that no two trainings share
CHOICE = "best_epoch"  # a final figure that is no percentage


@dataclass(frozen=True)
class Comparison:
    """weights: True when they are equal to the bit, False when not, None when the original's are not known; tensors: of how many
    it was told, 0 by the checksum alone, and how many differ, by how much at most. epochs: how many were compared; first: the
    first figure that differs, as (epoch, name, original, again); largest: the largest difference of one figure, likewise. A
    figure or epoch that only one of the two has counts as a difference. final: by name, (original, again). notes: what could
    not be compared, and why.
    """

    weights: bool | None
    tensors: int
    different_tensors: int
    largest_weight_difference: float
    epochs: int
    first: tuple[int, str, float | None, float | None] | None
    largest: tuple[int, str, float | None, float | None] | None
    final: dict[str, tuple[float | None, float | None]]
    notes: tuple[str, ...]

    @property
    def to_the_bit(self) -> bool:
        return self.weights is True and self.first is None and all(one == other for one, other in self.final.values())

    @property
    def apart(self) -> float:
        """The largest difference of a final figure, in percentage points; infinite when one is missing."""
        return max((_apart(*pair) for name, pair in self.final.items() if not name.endswith(CHOICE)), default=math.inf)

    def as_json(self) -> dict[str, Any]:
        distances = {
            "largest_weight_difference": self.largest_weight_difference,
            "largest_final_difference": self.apart,
        }
        return asdict(self) | {name: far if math.isfinite(far) else None for name, far in distances.items()}


def compare(original: Path, again: Path) -> Comparison:
    """Of two run folders, of which the original may lack its networks."""
    ours, theirs = read_result(original) or {}, read_result(again) or {}
    weights, tensors, different, distance, notes = _weights(original, again, ours.get("weights"), theirs.get("weights"))
    before, after = _figures(original, notes), _figures(again, notes)
    differing = [
        (epoch, name, before.get(epoch, {}).get(name), after.get(epoch, {}).get(name))
        for epoch in sorted(before.keys() | after.keys())
        for name in sorted(before.get(epoch, {}).keys() | after.get(epoch, {}).keys())
        if before.get(epoch, {}).get(name) != after.get(epoch, {}).get(name)
    ]
    final, final_again = _final(ours), _final(theirs)
    names = [*final, *(final_again.keys() - final.keys())]
    return Comparison(
        weights=weights,
        tensors=tensors,
        different_tensors=different,
        largest_weight_difference=distance,
        epochs=len(before.keys() | after.keys()),
        first=differing[0] if differing else None,
        largest=max(differing, key=lambda found: _apart(*found[2:]), default=None),
        final={name: (final.get(name), final_again.get(name)) for name in names},
        notes=tuple(notes),
    )


def _weights(
    original: Path, again: Path, ours: object, theirs: object
) -> tuple[bool | None, int, int, float, list[str]]:
    """(equal, tensors compared, how many differ, by how much at most, notes): by the networks, else by the checksums."""
    notes = []
    networks, networks_again = _networks(original, notes), _networks(again, notes)
    if networks is None or networks_again is None:
        if not ours or not theirs:
            notes.append("the original's weights are not known, neither its networks nor their checksum")
            return None, 0, 0, 0.0, notes
        return ours == theirs, 0, 0, 0.0, notes
    names = networks.keys() | networks_again.keys()
    distances = [_distance(networks.get(name), networks_again.get(name)) for name in names]
    different = [distance for distance in distances if distance is not None]
    return not different, len(names), len(different), max(different, default=0.0), notes


def _networks(folder: Path, notes: list[str]) -> dict[str, Any] | None:
    """The final networks' tensors by name; None when they are not there, or damaged, which is noted."""
    found = networks_file(RunFolder(folder).checkpoints)
    if found is None:
        return None
    try:
        parts = read(found)["parts"]
        return {f"{part} {name}": value for part, state in parts.items() for name, value in state.items()}
    except UnusableCheckpoint as damage:
        notes.append(str(damage))
    except (KeyError, AttributeError):
        notes.append(f"{found} holds no networks")
    return None


def _distance(one: Any, other: Any) -> float | None:
    """The largest difference of two tensors; None when they are equal to the bit, infinite when they cannot be compared."""
    if one is None or other is None or one.dtype != other.dtype or one.shape != other.shape:
        return math.inf
    if one.numpy().tobytes() == other.numpy().tobytes():
        return None
    return float((one.double() - other.double()).abs().max())


def _figures(folder: Path, notes: list[str]) -> dict[int, dict[str, float]]:
    """By epoch; one that was not finite is not there, as in MLflow, nor is an epoch whose line is damaged, which is noted."""
    try:
        epochs = read_epochs(folder)
    except Damaged as damage:
        notes.append(f"damaged in {folder}: {damage}")
        epochs = read_epochs(folder, skip_damaged=True)
    return {
        epoch["epoch"]: {
            name: value
            for name, value in epoch["metrics"].items()
            if name not in CLOCK and isinstance(value, int | float)
        }
        for epoch in epochs
    }


def _final(result: Mapping) -> dict[str, float]:
    final = result.get("final")
    found = final if isinstance(final, dict) else {}
    return {name.removeprefix("final/"): value for name, value in found.items() if isinstance(value, int | float)}


def _apart(one: float | None, other: float | None) -> float:
    return math.inf if one is None or other is None else abs(one - other)
