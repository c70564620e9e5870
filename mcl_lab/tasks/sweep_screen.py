"""What a person sees of a sweep: a live table while it goes on, and one of all its runs."""

import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from mcl_lab.launch.ledger import Ledger, Run, Standing
from mcl_lab.tasks.screen import table

STATES = ("running", "waiting", "finished", "failed", "lost")
COLOURS = {"running": "cyan", "waiting": "dim", "finished": "green", "failed": "red", "lost": "red"}
LATEST = 5  # finished runs in the live table


class SweepScreen:
    """While a sweep goes on: on a terminal a live table of what runs, failed, and finished lately; elsewhere a line for each
    change. A context manager that gives the function to call again and again."""

    def __init__(self, console: Console, name: str, ledger: Ledger, runs: Sequence[Run]):
        self.console = console
        self.name = name
        self.ledger = ledger
        self.runs = runs
        self.began = time.monotonic()
        self.standings: dict[str, Standing] = {}
        self.finished: list[str] = []  # in the order in which they were seen to be
        self.next_look = 0.0
        self.live = Live(console=console, transient=True, auto_refresh=False) if console.is_terminal else None

    def __enter__(self) -> "SweepScreen":
        self._look()
        if self.live:
            self.live.start()
        else:
            self.console.print(f"Sweep {self.name}: {self._summary()}")
        return self

    def __exit__(self, *_) -> None:
        with suppress(OSError, SystemExit):
            self._show()  # the last changes
            if self.live:
                self.live.stop()

    def __call__(self) -> None:
        if time.monotonic() >= self.next_look:
            with suppress(OSError, SystemExit):  # a terminal that was closed, a pipe that nobody reads: the runs go on
                self._show()
            self.next_look = time.monotonic() + 1.0

    def _show(self) -> None:
        changed = self._look()
        if self.live:
            self.live.update(self._table(), refresh=True)
        else:
            for run in changed:
                self._print_change(run, self.standings[run.folder])

    def _look(self) -> list[Run]:
        """Bring `standings` up to date; the runs whose state has changed."""
        changed = []
        for run in self.runs:
            before = self.standings.get(run.folder)
            if before is not None and before.state == "finished":
                continue
            now = self.standings[run.folder] = self.ledger.standing(run)
            if before is None or now.state != before.state:
                changed.append(run)
                if now.state == "finished":
                    self.finished.append(run.folder)
        return changed

    def _summary(self) -> str:
        counts = Counter(standing.state for standing in self.standings.values())
        return ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])

    def _print_change(self, run: Run, now: Standing) -> None:
        words = [f"{now.state:<8}", run.name, _accuracies(now), now.detail]
        self.console.print("  ".join(word for word in words if word), soft_wrap=True)

    def _table(self) -> Group:
        shown = [run for run in self.runs if self.standings[run.folder].state in ("running", "failed", "lost")]
        lately = set(self.finished[-LATEST:])
        shown += [run for run in self.runs if run.folder in lately]
        room = max(3, self.console.height - 8)
        title = f"Sweep {self.name}: {self._summary()}  ({_clock(time.monotonic() - self.began)})"
        made = sweep_table(title, [(run, self.standings[run.folder]) for run in shown[:room]])
        more = [Text(f"... and {len(shown) - room} more", style="dim")] if len(shown) > room else []
        return Group(
            made, *more, Text("Ctrl-C stops the runs after their current step; the same command goes on.", style="dim")
        )


def show_sweep(console: Console, name: str, standings: Sequence[tuple[Run, Standing]]) -> None:
    """Print all runs, and below them why some failed and where their logs are, to be copied from."""
    console.print(sweep_table(f"Sweep {name}", standings))
    for run, standing in standings:
        if standing.state in ("failed", "lost"):
            console.print(f"{run.name} {standing.state}: {standing.detail}\n    log: {run.log}", soft_wrap=True)


def sweep_table(title: str, standings: Sequence[tuple[Run, Standing]]) -> Table:
    """A row for each run."""
    made = table(title, ["run", "state"], ["epoch", "own heads (%)"])
    made.add_column("", overflow="ellipsis", no_wrap=True)
    for run, standing in standings:
        made.add_row(
            run.name,
            Text(standing.state, style=COLOURS[standing.state]),
            f"{standing.seen.epochs}/{run.epochs}",
            _accuracies(standing),
            Text(standing.detail),
        )
    return made


def as_json(standings: Sequence[tuple[Run, Standing]]) -> list[dict]:
    """The same as plain values."""
    return [
        {
            "name": run.name,
            "state": standing.state,
            "detail": standing.detail,
            "epoch": standing.seen.epochs,
            "epochs": run.epochs,
            "own_heads": standing.seen.accuracies,
            "folder": run.folder,
            "log": run.log,
            "run_key": run.run_key,
            "attempts": len(run.attempts),
        }
        for run, standing in standings
    ]


def _accuracies(standing: Standing) -> str:
    return " ".join(f"{value:.2f}" for value in standing.seen.accuracies)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
