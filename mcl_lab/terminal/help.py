"""The answer to --help, on one screen of 80 x 40: what the program is, commands to begin with, what can be chosen."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

from mcl_lab.config.catalogue import GROUPS, KINDS, Option, catalogue, default_options, kind_of_pair
from mcl_lab.host.text import plain_text

WIDTH = 80
_INDENT = 16  # of what stands beside a group's name
_LINES = 2  # of a group's options, or of a kind of pairs
_TOP = """\
mcl_lab: image classifiers that learn together from scratch, with no teacher, by
online knowledge distillation by mutual contrastive learning (L-MCL, TPAMI 2023)

  python run.py experiment=quickstart                two ResNet-8 on digits
  python run.py pair=resnet32_resnet110 seed=1       two networks on CIFAR-100
  python run.py pair=single/resnet32 loss=baseline   one alone, to compare with
  python run.py trainer.epochs=200 optimizer.lr=0.05 any value, by its key
  python run.py -m seed=0,1,2 loss=lmcl,dml          six runs, side by side
  python run.py +sweeps=paper hydra/launcher=slurm   the paper's tables: SLURM
  python run.py task=evaluate task.checkpoint=runs/X how well a run learned
  python run.py task=report                          runs beside the paper's
  python run.py --cfg job                            all settings, nothing run
"""
_GROUPS = "A run is one option of each group: GROUP=OPTION, by default the one with a *."
_END = """\
All options, a line on each: python run.py task=list.  All keys: docs/config.md
Flags: -m several runs, --config-dir FOLDER options of your own, --hydra-help"""


def help_text(folders: Sequence[Path] = ()) -> str:
    """What --help prints. folders: with options of the user's own, which are marked +."""
    found = catalogue(folders)
    lines: list[str] = []
    for group, options in found.items():
        if group == "pair":
            lines += _pairs(options)
        else:
            lines += _beside(group, GROUPS[group], group, options)
    own = any(option.folder for options in found.values() for option in options)
    notes = ["+ is from --config-dir", ""] if own else [""]
    return "\n".join([*_TOP.splitlines(), "", _GROUPS, *lines, *notes, *_END.splitlines()])


def _pairs(options: Sequence[Option]) -> list[str]:
    kinds = {option.name: kind_of_pair(option.file) for option in options}
    lines: list[str] = []
    for kind, words in KINDS.items():
        if of_kind := [option for option in options if kinds[option.name] == kind]:
            lines += _beside("" if lines else "pair", words, "pair", of_kind)
    return lines


def _beside(title: str, what: str, group: str, options: Sequence[Option]) -> list[str]:
    """The group with its options: the default first, then the user's own, and of the others what there is room for."""
    default = default_options().get(group)
    ranked = sorted(options, key=lambda option: (option.name != default, option.folder is None))
    marks = ["*" if option.name == default else "+" if option.folder else "" for option in ranked]
    names = [plain_text(option.name) + mark for option, mark in zip(ranked, marks, strict=True)]
    for shown in range(len(names), -1, -1):
        rest = [f"... ({len(names)})"] if shown < len(names) else []
        lines = textwrap.wrap(
            f"{what}: {', '.join(names[:shown] + rest)}",
            WIDTH,
            initial_indent=title.ljust(_INDENT),
            subsequent_indent=" " * _INDENT,
            break_on_hyphens=False,
        )
        if len(lines) <= _LINES:
            break
    return lines
