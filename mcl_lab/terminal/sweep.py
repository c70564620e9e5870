"""What a person sees of a sweep: a live table while it goes on, and one of all its runs."""

import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from rich.cells import cell_len
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from mcl_lab.errors import Interrupted
from mcl_lab.host.output import is_lost
from mcl_lab.host.screen import show_table, table, width_of
from mcl_lab.launch.ledger import Ledger
from mcl_lab.launch.ledger_run import LedgerRun
from mcl_lab.launch.slurm import Submission
from mcl_lab.launch.standing import GOING_ON, Standing
from mcl_lab.terminal.commands import command_line, named
from mcl_lab.terminal.output import show_lines

COLOURS = {  # of the states, in the order in which they are counted
    "running": "cyan",
    "queued": "blue",
    "waiting": "dim",
    "finished": "green",
    "cancelled": "yellow",
    "failed": "red",
    "lost": "red",
    "unknown": "yellow",
}
LATEST = 5  # finished runs in the live table
POLL = 0.2  # seconds
SHORTEST = 8  # characters of a column that is cut off
LONGEST = 40  # rows that are shown of what was submitted
LAUNCHED_HERE = "Ctrl-C stops the runs after their current step; the same command goes on."
LEFT_ALONE = "Ctrl-C stops only looking: the jobs go on."


class SweepScreen:
    """While a sweep goes on: on a terminal a live table of what runs, failed, and finished lately; elsewhere a line for each
    change. A context manager that gives the function to call again and again."""

    def __init__(
        self, console: Console, name: str, ledger: Ledger, runs: Sequence[LedgerRun], hint: str = LAUNCHED_HERE
    ):
        self.console = console
        self.name = name
        self.ledger = ledger
        self.runs = runs
        self.hint = hint
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
        with suppress(OSError):  # a file system that stumbles
            self._show()  # the last changes
            if self.live:
                self.live.stop()

    def __call__(self) -> None:
        began = time.monotonic()
        if began >= self.next_look:
            with suppress(OSError):  # a file system that stumbles
                self._show()
            now = time.monotonic()
            self.next_look = now + max(
                1.0, 9 * (now - began)
            )  # a thousand folders on a slow file system take their time

    @property
    def settled(self) -> bool:
        """Whether no run is in a state that it may leave by itself."""
        return not any(standing.state in GOING_ON for standing in self.standings.values())

    def _show(self) -> None:
        changed = self._look()
        if self.live:
            self.live.update(self._table(), refresh=True)
        else:
            for run in changed:
                self._print_change(run, self.standings[run.folder])

    def _look(self) -> list[LedgerRun]:
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
        counts: Counter[str] = Counter(standing.state for standing in self.standings.values())
        return ", ".join(f"{counts[state]} {state}" for state in COLOURS if counts[state])

    def _print_change(self, run: LedgerRun, now: Standing) -> None:
        words = [f"{now.state:<8}", run.name, _accuracies(now), now.detail]
        self.console.print("  ".join(word for word in words if word), soft_wrap=True)

    def _table(self) -> Group:
        quiet = ("waiting", "queued", "finished")
        shown = [run for run in self.runs if self.standings[run.folder].state not in quiet]
        lately = set(self.finished[-LATEST:])
        shown += [run for run in self.runs if run.folder in lately]
        room = max(3, self.console.height - 8)
        title = f"Sweep {self.name}: {self._summary()}  ({_clock(time.monotonic() - self.began)})"
        made = sweep_table(title, [(run, self.standings[run.folder]) for run in shown[:room]], self.console.width)
        if (excess := width_of(made) - self.console.width) > 0:  # a live table cannot go beyond the screen
            longest = max(cell_len(run.name) for run in shown[:room])
            made.columns[0].max_width = max(SHORTEST, longest - excess)
        more = [Text(f"... and {len(shown) - room} more", style="dim")] if len(shown) > room else []
        return Group(made, *more, Text(self.hint, style="dim"))


def follow(
    console: Console,
    ledger: Ledger,
    runs: Sequence[LedgerRun],
    is_launching: Callable[[], bool],
    *,
    unseen: bool = True,
) -> None:
    """Show how runs go on that other processes train, until none of them goes on by itself and nobody is launching the
    sweep; unless `unseen`, only as long as somebody reads it. Raises Interrupted."""
    try:
        with SweepScreen(console, ledger.folder.name, ledger, runs, LEFT_ALONE) as show:
            while (not show.settled or is_launching()) and (unseen or not is_lost()):
                ledger.refresh()
                show()
                time.sleep(POLL)
    except KeyboardInterrupt:
        words = command_line("task=sweep", named(ledger.folder), "task.action=status")
        raise Interrupted(f"looking; the jobs go on. To look again: {words}", signal.SIGINT) from None


def show_submission(
    console: Console, ledger: Ledger, submission: Submission, standings: Sequence[tuple[LedgerRun, Standing]]
) -> None:
    """Print what was handed to SLURM, how all runs stand, and the commands that come next."""
    name = ledger.folder.name
    show_table(console, sweep_table(f"Sweep {name}", standings[:LONGEST], console.width))
    if len(standings) > LONGEST:
        console.print(f"... and {len(standings) - LONGEST} more")
    jobs = sum(len(array.jobs) for array in submission.arrays)
    ids = [array.id for array in submission.arrays]
    arrays = f"{'array' if len(ids) == 1 else 'arrays'} {', '.join(ids)}"
    places = (
        f" in {jobs} {'job' if jobs == 1 else 'jobs'}, {arrays}" if jobs else ": all are finished, queued or running"
    )
    console.print(f"{len(submission.runs)} of {len(standings)} runs submitted{places}")
    actions = {"how it stands": [], "live": ["task.action=status"], "end it": ["task.action=cancel"]}
    lines = [(what, command_line("task=sweep", named(ledger.folder), *more)) for what, more in actions.items()]
    show_lines(console, lines)


def show_sweep(console: Console, name: str, standings: Sequence[tuple[LedgerRun, Standing]]) -> None:
    """Print all runs, and below them why some failed and where their logs are, to be copied from."""
    show_table(console, sweep_table(f"Sweep {name}", standings, console.width))
    for run, standing in standings:
        if standing.state in ("failed", "lost", "unknown"):
            log = f"\n    log: {run.log}" if Path(run.log).exists() else ""
            console.print(f"{run.name} {standing.state}: {standing.detail}{log}", soft_wrap=True)


def sweep_table(title: str, standings: Sequence[tuple[LedgerRun, Standing]], width: int) -> Table:
    """A row for each run. Where the table would be wider than `width`, only what is told of a state is cut off, or left out."""
    room = width - width_of(_drawn(title, standings, details=1)) + 1
    return _drawn(title, standings, details=room if room >= SHORTEST else 0)


def _drawn(title: str, standings: Sequence[tuple[LedgerRun, Standing]], details: int) -> Table:
    """details: characters of what is told of a state, 0 for no such column."""
    made = table(title, ["run", "state"], ["epoch", "own heads (%)"])
    if details:
        made.add_column("", max_width=details, overflow="ellipsis", no_wrap=True)
    for run, standing in standings:
        made.add_row(
            run.name,
            Text(standing.state, style=COLOURS[standing.state]),
            f"{standing.seen.epochs}/{run.epochs}",
            _accuracies(standing),
            *([Text(standing.detail)] if details else []),
        )
    return made


def as_json(standings: Sequence[tuple[LedgerRun, Standing]]) -> list[dict]:
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
            "job": run.latest.job if run.latest else None,
            "host": run.latest.host if run.latest else None,
            "gpu": run.latest.gpu if run.latest else None,
        }
        for run, standing in standings
    ]


def _accuracies(standing: Standing) -> str:
    return " ".join(f"{value:.2f}" for value in standing.seen.accuracies)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
