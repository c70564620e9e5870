"""What the documents name is there, and what is made of the config is made of the present one."""

import re
from pathlib import Path

import pytest
from documents import DOCUMENTS, HOUSE, text_of

from mcl_lab.config.compose import CONF
from mcl_lab.terminal.document import COMMAND, document

SECTIONS = "|".join(path.name for path in CONF.iterdir() if path.is_dir() and path.name not in ("hydra", "network"))


def each(documents):
    return pytest.mark.parametrize("document", documents, ids=[path.name for path in documents])


def anchors(document: Path) -> set[str]:
    """Of the headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)", text_of(document), flags=re.MULTILINE)
    return {re.sub(r"[^\w-]", "", title.lower().replace(" ", "-")) for title in titles}


@each(DOCUMENTS)
def test_the_tests_that_a_document_names(document):
    named = set(re.findall(r"`([\w/]+/test_\w+\.py)`", text_of(document)))
    assert named or document.name not in ("reliability.md", "method.md")
    assert not [name for name in sorted(named) if not (HOUSE / "tests" / name).is_file()]


@each(DOCUMENTS)
def test_the_links_of_a_document(document):
    links = {link for link in re.findall(r"\]\(([^)\s]+)\)", text_of(document)) if "://" not in link}
    for link in sorted(links):
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.exists() and (not anchor or anchor in anchors(target)), link


@each(DOCUMENTS)
def test_the_keys_that_a_document_names(document):
    known = set(re.findall(r"^\| `([\w.]+)` \|", text_of(HOUSE / "docs" / "config.md"), flags=re.MULTILINE))
    known |= {re.sub(r"^pair\.peers\.NAME\b", f"pair.peers.{name}", key) for key in known for name in "ab"}
    named = set(re.findall(rf"`((?:{SECTIONS})(?:\.[a-z_]+)+)(?:=[^`]*)?`", text_of(document)))
    assert sorted(named - known - {"optimizer.dampening"}) == []  # that one is to be added


def test_the_page_of_the_config_is_current():
    assert text_of(HOUSE / "docs" / "config.md") == document(), f"docs/config.md is not current: {COMMAND}"
