"""Text that may be shown, in whatever characters the terminal has."""

import io
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcl_lab.host.text import print_anywhere, spelt_out

ENCODINGS = ["ascii", "latin-1", "cp437", "utf-8"]


def test_signs_are_spelt_out_and_other_letters_told():
    assert spelt_out("99.26 ± 0.08, – and été…", "ascii") == r"99.26 +- 0.08, - and \xe9t\xe9~"
    assert spelt_out("99.26 ± 0.08, – and été", "latin-1") == "99.26 ± 0.08, - and été"


@pytest.mark.parametrize("encoding", ENCODINGS)
@given(text=st.text(st.characters(codec=None)))
def test_any_text_can_be_printed(encoding, text):
    shown = spelt_out(text, encoding)
    assert shown.encode(encoding).decode(encoding) == shown
    if all(letter == letter.encode(encoding, "replace").decode(encoding) for letter in text):
        assert shown == text


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_streams_of_a_process_print_any_text(monkeypatch, encoding):
    raw = {name: io.BytesIO() for name in ("stdout", "stderr")}
    for name, file in raw.items():
        monkeypatch.setattr(sys, name, io.TextIOWrapper(file, encoding=encoding, write_through=True))
    print_anywhere()
    for name, file in raw.items():
        print("± \udce9 é", file=getattr(sys, name), flush=True)
        assert file.getvalue().decode(encoding) == spelt_out("± \udce9 é\n", encoding)


def test_a_stream_that_is_closed_is_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    print_anywhere()
