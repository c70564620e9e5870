"""What a person sees while a run trains: one line an epoch, and on a terminal a live bar under it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

FIRST, COLUMN = 31, 8  # characters before the first accuracy, and of each: two peers fit into 80


class ConsoleProgress:
    """A table that grows by a line an epoch, each peer with the accuracies (%) of its own head on the epoch's training
    images and on the test images, and of its ensemble on the test images.

    peers: network names by peer. data: what the images are, the first line. In a file or a pipe there are the
    lines alone, without control characters. On a terminal that is too narrow for it the accuracies on the training images
    are left out.
    """

    def __init__(self, console: Console, peers: Mapping[str, str], *, ensembles: bool, data: str):
        self.console = console
        self.peers = peers
        self.data = data
        self.heads = {"train": "train/{}/own_head", "test": "test/{}/own_head"}
        if ensembles:
            self.heads["ens."] = "test/{}/ensemble"
        if console.is_terminal and FIRST + COLUMN * len(self.heads) * len(peers) > console.width:
            del self.heads["train"]
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
        self._print(self.data)
        if done:
            self._print(f"going on after step {done} of {steps}")
        width = COLUMN * len(self.heads)
        titles = (_shortened(f"{peer}: {network}", width - 1) for peer, network in self.peers.items())
        self._print(" " * FIRST + "".join(f"{title:>{width}}" for title in titles))
        heads = "".join(f"{head:>{COLUMN}}" for head in self.heads)
        self._print(f"{'epoch':>7}{'loss':>9}{'lr':>8}{'time':>7}" + heads * len(self.peers))
        self.task = self.bar.add_task("starting", total=steps, completed=done)
        with self.bar:
            yield

    def step(self, epoch: int, step: int, metrics: Mapping | None) -> None:
        """Move the bar: `step` steps are done, of epoch number `epoch` (from 0) the means of `metrics` so far."""
        text = f"epoch {epoch + 1}"
        if metrics:
            accuracy = " ".join(f"{value:.1f}" for value in metrics["accuracy"])
            text += f"  loss {metrics['loss']:.3f}  train {accuracy} %"
        self.bar.update(self.task, completed=step, description=text)

    def epoch(self, record: dict) -> None:
        """Print an epoch's line."""
        metrics = record["metrics"]
        line = (
            f"{record['epoch']:>3}/{self.epochs:<3}{metrics['train/loss']:>9.3f}{metrics['train/learning_rate']:>8.4f}"
        )
        seconds = metrics["train/seconds"] + metrics["train/evaluation_seconds"]
        line += f"{seconds:>6.1f}s" if seconds < 100 else f"{seconds:>6.0f}s"
        for peer in self.peers:
            line += "".join(f"{metrics[name.format(peer)]:>{COLUMN}.2f}" for name in self.heads.values())
        self._print(line)

    def _print(self, line: str) -> None:
        self.console.print(line, soft_wrap=True)


def _shortened(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 2] + ".."
