"""Learned diffusion solvers: the package behind the notebooks."""

import os

__version__ = "0.1.0"

# OpenMP's threads wait by spinning. Beside any other busy program on the same cores each then holds up
# the others. Read when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
