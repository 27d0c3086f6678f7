"""`python -m analysis`."""

import os
import sys

# Matrices of a few hundred rows are slower on several threads than on one, and much slower where
# cores are shared. It must be said before NumPy loads.
for library in ("OMP", "OPENBLAS", "MKL"):
    os.environ.setdefault(f"{library}_NUM_THREADS", "1")

from analysis.cli import main  # noqa: E402

sys.exit(main())
