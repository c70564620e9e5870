"""The table of epochs: as wide as the terminal takes."""

import io

import pytest
from rich.console import Console

from mcl_lab.terminal.progress import ConsoleProgress


def shown(count: int, width: int, *, done: int = 0, terminal: bool = True) -> list[str]:
    """The lines of a run of `count` peers, one epoch long, without the bar."""
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=terminal, force_interactive=False, color_system=None)
    peers = dict.fromkeys("abcd"[:count], "shufflenetv2_1x")
    progress = ConsoleProgress(console, peers, ensembles=True, data="the images")
    progress.bar.disable = True
    figures = {
        f"{part}/{peer}/{head}": 100.0
        for peer in peers
        for part in ("train", "test")
        for head in ("own_head", "ensemble")
    }
    times = {"train/seconds": 1234.5, "train/evaluation_seconds": 0.0}
    record = {"epoch": 300, "metrics": {"train/loss": 1234.567, "train/learning_rate": 0.1, **times, **figures}}
    with progress.of(epochs=300, steps=117_300, done=done):
        progress.epoch(record)
    first, *lines = out.getvalue().splitlines()
    assert first == "the images"
    return lines


@pytest.mark.parametrize(("count", "trained"), [(1, True), (2, True), (3, False)])
def test_it_fits_into_80_columns(count, trained):
    peers, names, figures = shown(count, 80)
    assert max(map(len, (peers, names, figures))) == len(figures) <= 80
    assert names.split() == ["epoch", "loss", "lr", "time", *count * [*(["train"] if trained else []), "test", "ens."]]
    assert len(figures.split()) == len(names.split()) and peers.split()[::2] == [f"{key}:" for key in "abc"[:count]]
    assert (".." in peers) == (count == 3) and "300/300 1234.567  0.1000  1234s" in figures


def test_a_file_has_all_columns():
    assert shown(3, 80, terminal=False)[1].split().count("train") == 3


def test_a_run_that_goes_on_says_from_where():
    assert shown(1, 80, done=38)[0] == "going on after step 38 of 117300"
