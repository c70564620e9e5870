"""What the documents name is there."""

import re
from pathlib import Path

import pytest

HOUSE = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("document", sorted((HOUSE / "docs").glob("*.md")), ids=lambda path: path.name)
def test_the_tests_that_a_document_names(document):
    named = set(re.findall(r"`([\w/]+/test_\w+\.py)`", document.read_text(encoding="utf-8")))
    assert named and not [name for name in sorted(named) if not (HOUSE / "tests" / name).is_file()]
