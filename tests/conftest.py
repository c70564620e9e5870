"""For every test: read by OpenMP when PyTorch is imported, and inherited by the processes that tests start."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # what tests compute is too small to share out
os.environ.setdefault("GOMP_SPINCOUNT", "2000")  # as run.py does
