"""Two trainings of one run, compared: final weights bit for bit, every epoch's metrics, the final metrics."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mcl_lab.runs.checkpoints import UnusableCheckpoint, networks_file, read
from mcl_lab.runs.journal import CLOCK, Damaged, read_epochs
from mcl_lab.runs.layout import RunFolder
from mcl_lab.runs.result import FINAL, read_result

CHOICE = "best_epoch"  # a final metric that is no percentage


class Difference(NamedTuple):
    """Of a metric in an epoch; None where a training does not have it."""

    epoch: int
    metric: str
    original: float | None
    again: float | None

    @property
    def distance(self) -> float:
        return _apart(self.original, self.again)


@dataclass(frozen=True)
class Comparison:
    """What the original and the reproduction have in common. Its fields are the keys of the JSON that programs read."""

    weights: bool | None  # whether they are equal to the bit; None when the original's are not known
    tensors: int  # that were compared; 0 when only the checksums were
    different_tensors: int
    largest_weight_difference: float
    epochs: int  # that were compared
    first: Difference | None  # of the epochs' metrics, the clock's aside
    largest: Difference | None
    final: dict[str, tuple[float | None, float | None]]  # (original, again) by `<peer>/<metric>`
    notes: tuple[str, ...]  # what could not be compared, and why

    @property
    def to_the_bit(self) -> bool:
        return self.weights is True and self.first is None and all(one == other for one, other in self.final.values())

    @property
    def apart(self) -> float:
        """The largest difference of a final metric, in percentage points; infinite when one is missing."""
        return max((_apart(*pair) for name, pair in self.final.items() if not name.endswith(CHOICE)), default=math.inf)

    def as_json(self) -> dict[str, Any]:
        """Plain values; None for a difference that is not finite."""
        distances = {
            "largest_weight_difference": self.largest_weight_difference,
            "largest_final_difference": self.apart,
        }
        return asdict(self) | {name: far if math.isfinite(far) else None for name, far in distances.items()}


def compare(original: Path, again: Path) -> Comparison:
    """Of two run folders, of which the original may lack its networks."""
    notes: list[str] = []
    results = [read_result(folder) or {} for folder in (original, again)]
    weights = _compare_weights(original, again, [result.get("weights") for result in results], notes)
    before, after = _metrics_of_epochs(original, notes), _metrics_of_epochs(again, notes)
    differences = _differences(before, after)
    final, final_again = map(_final_metrics, results)
    names = [*final, *(final_again.keys() - final.keys())]
    return Comparison(
        weights=weights.equal,
        tensors=weights.tensors,
        different_tensors=weights.different,
        largest_weight_difference=weights.distance,
        epochs=len(before.keys() | after.keys()),
        first=differences[0] if differences else None,
        largest=max(differences, key=lambda difference: difference.distance, default=None),
        final={name: (final.get(name), final_again.get(name)) for name in names},
        notes=tuple(notes),
    )


class _Weights(NamedTuple):
    equal: bool | None
    tensors: int = 0
    different: int = 0
    distance: float = 0.0


def _compare_weights(original: Path, again: Path, checksums: list[object], notes: list[str]) -> _Weights:
    """By the networks, else by the checksums."""
    networks, networks_again = _networks(original, notes), _networks(again, notes)
    if networks is None or networks_again is None:
        if not all(checksums):
            notes.append("the original's weights are not known, neither its networks nor their checksum")
            return _Weights(None)
        return _Weights(checksums[0] == checksums[1])
    names = networks.keys() | networks_again.keys()
    distances = [_distance(networks.get(name), networks_again.get(name)) for name in names]
    different = [distance for distance in distances if distance is not None]
    return _Weights(not different, len(names), len(different), max(different, default=0.0))


def _networks(folder: Path, notes: list[str]) -> dict[str, Tensor] | None:
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


def _distance(one: Tensor | None, other: Tensor | None) -> float | None:
    """The largest difference of two tensors; None when they are equal to the bit, infinite when they cannot be compared."""
    if one is None or other is None or one.dtype != other.dtype or one.shape != other.shape:
        return math.inf
    if _bits(one).equal(_bits(other)):
        return None
    return float((one.double() - other.double()).abs().max())


def _bits(value: Tensor) -> Tensor:
    return value.contiguous().reshape(-1).view(torch.uint8)


def _metrics_of_epochs(folder: Path, notes: list[str]) -> dict[int, dict[str, float]]:
    """By epoch; one that was not finite is not there, as in MLflow, nor is an epoch whose line is damaged, which is noted."""
    try:
        epochs = read_epochs(folder)
    except Damaged as damage:
        notes.append(f"damaged in {folder}: {damage}")
        epochs = read_epochs(folder, skip_damaged=True)
    return {
        epoch["epoch"]: {name: value for name, value in _numbers(epoch["metrics"]).items() if name not in CLOCK}
        for epoch in epochs
    }


def _differences(before: Mapping[int, Mapping], after: Mapping[int, Mapping]) -> list[Difference]:
    """By epoch and name; what only one of the two has counts as a difference."""
    found = []
    for epoch in sorted(before.keys() | after.keys()):
        ours, theirs = before.get(epoch, {}), after.get(epoch, {})
        for name in sorted(ours.keys() | theirs.keys()):
            if ours.get(name) != theirs.get(name):
                found.append(Difference(epoch, name, ours.get(name), theirs.get(name)))
    return found


def _final_metrics(result: Mapping) -> dict[str, float]:
    final = result.get("final")
    found = _numbers(final if isinstance(final, dict) else {})
    return {name.removeprefix(FINAL): value for name, value in found.items()}


def _numbers(values: Mapping[str, object]) -> dict[str, float]:
    return {name: value for name, value in values.items() if isinstance(value, int | float)}


def _apart(one: float | None, other: float | None) -> float:
    return math.inf if one is None or other is None else abs(one - other)
