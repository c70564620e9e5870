"""The door: `python run.py ...`. What a command line is and does: mcl_lab/cli.py."""

import sys

from mcl_lab.host.modules import libraries_first

if __name__ == "__main__":
    libraries_first()
    from mcl_lab.cli import main, report_defect

    sys.excepthook = report_defect
    sys.exit(main())
