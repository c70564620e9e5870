"""Checksums by which configs, code and environments are known."""

import hashlib
import json


def digest_of(value: object) -> str:
    """SHA-256 in hexadecimal digits of a plain value, as JSON in which the order of keys does not count.

    Raises ValueError for a number that is not finite.
    """
    return hashlib.sha256(json.dumps(value, sort_keys=True, allow_nan=False).encode()).hexdigest()
