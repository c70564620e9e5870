"""The door: `python run.py ...`. What a command line is and does: mcl_lab/cli.py."""

import sys

from mcl_lab.cli import main, report_defect

if __name__ == "__main__":
    sys.excepthook = report_defect
    sys.exit(main())
