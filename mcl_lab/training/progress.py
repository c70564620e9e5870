"""What a person sees while a run trains: one line an epoch, and on a terminal a live bar under it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class ConsoleProgress:
    """A table that grows by a line an epoch, each peer with the accuracies (%) of its own head on the epoch's training
    images and on the test images, and of its ensemble on the test images.

    peers: network names by peer. In a file or a pipe there are the lines alone, without control characters.
    """

    def __init__(self, console: Console, peers: Mapping[str, str], *, ensembles: bool):
        self.console = console
        self.peers = peers
        self.heads = ["train", "test", *(["ens."] if ensembles else [])]
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("steps "),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
            expand=True,
        )

    @contextmanager
    def of(self, *, epochs: int, steps: int, done: int) -> Iterator[None]:
        """Show a run of `epochs` epochs and `steps` steps, `done` of them before this process."""
        self.epochs = epochs
        width = 8 * len(self.heads)
        self._print(" " * 34 + "".join(f"{f'{peer}: {network}':>{width}}" for peer, network in self.peers.items()))
        self._print(
            f"{'epoch':>9}{'loss':>10}{'lr':>8}{'time':>7}" + "".join(f"{h:>8}" for h in self.heads) * len(self.peers)
        )
        self.task = self.bar.add_task("", total=steps, completed=done)
        with self.bar:
            yield

    def step(self, epoch: int, step: int, figures: dict | None) -> None:
        """Move the bar: `step` steps are done, of epoch number `epoch` (from 0) the `figures` so far."""
        text = f"epoch {epoch + 1}"
        if figures:
            accuracy = " ".join(f"{value:.1f}" for value in figures["accuracy"])
            text += f"  loss {figures['loss']:.3f}  train {accuracy} %"
        self.bar.update(self.task, completed=step, description=text)

    def epoch(self, record: dict) -> None:
        """Print an epoch's line."""
        metrics = record["metrics"]
        line = (
            f"{record['epoch']:>5}/{self.epochs:<3}{metrics['train/loss']:>10.3f}{metrics['train/learning_rate']:>8.4f}"
        )
        line += f"{metrics['train/seconds'] + metrics['train/evaluation_seconds']:>6.1f}s"
        for peer in self.peers:
            names = (f"train/{peer}/own_head", f"test/{peer}/own_head", f"test/{peer}/ensemble")
            line += "".join(f"{metrics[name]:>8.2f}" for name in names[: len(self.heads)])
        self._print(line)

    def _print(self, line: str) -> None:
        self.console.print(line, soft_wrap=True)
