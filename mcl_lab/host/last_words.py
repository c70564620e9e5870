"""Why a program ended, in one line that it leaves where whoever started it can read it.

The launcher names a file in the program's environment; a program that ends by an error writes the line there. One that left
none was killed, or never came so far: its exit status and what it printed have to tell.
"""

import os
import signal
from contextlib import suppress
from pathlib import Path

VARIABLE = "MCL_LAB_LAST_WORDS"
LONGEST_LINE = 4000  # bytes of a log's end that are looked at

_place: Path | None = None


def claim() -> None:
    """Take the place that the environment names for this process; what it starts itself leaves its words elsewhere."""
    global _place
    named = os.environ.pop(VARIABLE, None)
    _place = Path(named) if named else None


def leave(line: str) -> None:
    """Say why this program ends. Nothing is written where nobody asked, or cannot be; the last to speak is heard."""
    if _place is not None:
        with suppress(OSError):
            _place.write_text(line + "\n", encoding="utf-8")


def asked_for(place: Path) -> dict[str, str]:
    """For the environment of a program that is to leave its words in the file `place`, in which there are none yet."""
    place.unlink(missing_ok=True)
    return {VARIABLE: str(place.absolute())}


def left_in(place: Path) -> str:
    """What a program left there, "" when nothing; the file is gone afterwards."""
    words = ""
    with suppress(OSError):
        words = place.read_text(encoding="utf-8", errors="replace").strip()
        place.unlink()
    return words


def why_ended(status: int, place: Path, log: str) -> str:
    """Why a program failed that was started with `asked_for(place)`; the file is gone afterwards.

    status: as Python has it, below 0 for the signal that killed it. log: what it printed.
    """
    if words := left_in(place):
        return words
    if status < 0:
        return f"killed by {_name_of(-status)}"
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return f"exit status {status}: {lines[-1]}" if lines else f"exit status {status}"


def end_of(log: Path, start: int) -> str:
    """The end of what was printed into a file, from byte `start` on; "" when it cannot be read."""
    try:
        with open(log, "rb") as file:
            file.seek(max(start, log.stat().st_size - LONGEST_LINE))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def _name_of(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal has no name
        return f"signal {number}"
