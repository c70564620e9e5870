"""Text that may be shown."""


def plain_text(text: str) -> str:
    """One line without characters that a terminal obeys or nobody sees."""
    return "".join(letter if letter.isprintable() else " " if letter.isspace() else "?" for letter in text)


def as_line(value: object, longest: int = 100) -> str:
    """What somebody else may have written, as one line that may be shown, of at most so many characters; `none` for None."""
    return plain_text("none" if value is None else str(value)[:longest])
