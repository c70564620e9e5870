"""Text that may be shown."""

import codecs
import io
import sys

SPELT_OUT = "mcl_lab.spelt_out"  # what to do about characters that an encoding lacks, among Python's error handlers
SIGNS = {"±": "+-", "–": "-", "…": "~"}  # of ours, in ASCII


def plain_text(text: str) -> str:
    """One line without characters that a terminal obeys or nobody sees."""
    return "".join(letter if letter.isprintable() else " " if letter.isspace() else "?" for letter in text)


def as_line(value: object, longest: int = 100) -> str:
    """What somebody else may have written, as one line that may be shown, of at most so many characters; `none` for None."""
    return plain_text("none" if value is None else str(value)[:longest])


def spelt_out(text: str, encoding: str) -> str:
    """The same in characters that an encoding has: `+-` for ±, and any other letter as Python's stderr has it, `\\xe9`."""
    return text.encode(encoding, errors=SPELT_OUT).decode(encoding)


def print_anywhere() -> None:
    """From now on this process can print any text, whatever encoding its terminal or pipe has."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # closed streams are None
            stream.reconfigure(errors=SPELT_OUT)


def _spell_out(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = error.object[error.start : error.end]
    spelt = (SIGNS.get(letter) or letter.encode("ascii", "backslashreplace").decode() for letter in letters)
    return "".join(spelt), error.end


codecs.register_error(SPELT_OUT, _spell_out)
