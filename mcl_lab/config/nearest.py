"""The name somebody most likely meant."""

import difflib
from collections.abc import Iterable


def nearest(name: str, names: Iterable[str], wording: str = "; did you mean {}?") -> str:
    """`wording` with the one of `names` that is most like `name`, in any case; the empty string when none is."""
    folded = {known.casefold(): known for known in sorted(names)}
    matches = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.6)
    return wording.format(folded[matches[0]]) if matches else ""
