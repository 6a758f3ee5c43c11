"""Learn the solver of a diffusion model: S4S, S4S-Alt and their siblings, and the classic solvers.

>>> import s4s_nb as s4s
>>> model = s4s.load("fashion")       # bundled, or s4s.Model(denoise, shape=…, …) for your own
>>> result = s4s.learn(model, nfe=5)  # the best recipe we know
>>> result.solver.save("five.safetensors")
>>> images = s4s.sample(model, result.solver, count=16, seed=0)
>>> print(s4s.compare(model, nfe=5, solvers=[result.solver]))

The modules below are for readers of the code, in this order: schedules, denoisers, mixtures, first,
solvers, grids, multistep, single_step, classic, computed_grids; levels, student, families, siblings,
distilled, solver_search, designed, pairs, store, learn; distances, frechet, comparison, evaluate,
opponents; models, training, studies, course.
"""

# ruff: noqa: E402, F401
import os

# OpenMP's threads wait by spinning. Beside any other busy program on the same cores each then holds up the
# others. Read when torch is imported: import s4s_nb before it.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from typing import Any

from s4s_nb.classic import AS_USED, make_solver
from s4s_nb.computed_grids import dmn
from s4s_nb.denoisers import Counted, black_box, clipped, from_data, from_noise, from_velocity, guided
from s4s_nb.distances import lpips_distance, rmse
from s4s_nb.distilled import distilled_student
from s4s_nb.errors import InputError
from s4s_nb.evaluate import evaluate, sample
from s4s_nb.families import LinearMultistep, PredictorCorrector, SingleStep, make_student
from s4s_nb.files import data_file, manifest, read_safetensors, sha256, write_json, write_safetensors
from s4s_nb.first import FreeFirst
from s4s_nb.frechet import features, frechet_distance, moments
from s4s_nb.grids import (
    ALIGN_YOUR_STEPS,
    GRIDS,
    align_your_steps,
    karras,
    log_snr,
    make_grid,
    quadratic_t,
    uniform_t,
)
from s4s_nb.learn import learn
from s4s_nb.learn.designer import designer, load_designed
from s4s_nb.learn.embeddings import embedding_of
from s4s_nb.learn.gauss_newton import best_step, normal_equations
from s4s_nb.learn.loop import Result, learn_student
from s4s_nb.learn.methods import METHODS, Method
from s4s_nb.learn.objectives import OBJECTIVES, ways_of
from s4s_nb.learn.optimiser import OPTIMISERS
from s4s_nb.learn.problem import Problem
from s4s_nb.learn.relaxed import radius_rule
from s4s_nb.levels import Levels, decoupled, solver_on
from s4s_nb.mixtures import GaussianMixture
from s4s_nb.models import Model
from s4s_nb.models.bundled import NETWORKS, SETTINGS, load, load_network
from s4s_nb.models.cards import cards
from s4s_nb.models.classifier import accuracy
from s4s_nb.models.named_solvers import find_solver
from s4s_nb.multistep import (
    dpmpp_weights,
    ipndm_weights,
    linear_multistep,
    polynomial_weights,
    predictor_corrector,
    unipc_weights,
)
from s4s_nb.opponents import compare
from s4s_nb.pairs import SEEDS, Pairs, run, seeded_noise
from s4s_nb.runtime import map_batches
from s4s_nb.schedules import VE, Flow, VPCosine, VPDiscrete, VPLinear
from s4s_nb.siblings import GivenTable
from s4s_nb.solver_search import SolverSearch, search_student
from s4s_nb.solvers import Solver, solve, trajectory
from s4s_nb.store import PairStore
from s4s_nb.student import Student

__version__ = "0.4.0"


def __getattr__(name: str) -> Any:
    """``nb``, what notebooks are set up with, is imported when it is asked for: it draws."""
    if name == "nb":
        from s4s_nb.course import notebook

        return notebook
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
