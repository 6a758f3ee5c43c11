"""Grids fall strictly from end to end, uniform in what their name says."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from s4s_nb.errors import InputError
from s4s_nb.grids import ALIGN_YOUR_STEPS, GRIDS, align_your_steps, check_grid, karras, make_grid
from s4s_nb.schedules import VPDiscrete, VPLinear
from tests.problems import F64


@pytest.mark.parametrize("name", GRIDS)
@given(
    steps=st.integers(1, 60),
    low=st.floats(1e-3, 0.1),
    ratio=st.floats(10, 1e4),
)
def test_ends_are_exact_and_levels_fall(name, steps, low, ratio):
    grid = make_grid(name, steps, low * ratio, low, VPLinear())
    assert len(grid) == steps + 1 and grid.dtype == F64
    assert grid[0].item() == pytest.approx(low * ratio, rel=1e-12)
    assert grid[-1].item() == pytest.approx(low, rel=1e-12)
    assert (grid.diff() < 0).all()


@pytest.mark.parametrize(
    "name, coordinate",
    [
        ("karras", lambda s: s ** (1 / 7)),
        ("logsnr", torch.log),
        ("uniform", VPLinear().time),
        ("quadratic", lambda s: VPLinear().time(s).sqrt()),
    ],
)
def test_uniform_in_its_coordinate(name, coordinate):
    gaps = coordinate(make_grid(name, 9, 80.0, 0.002, VPLinear())).diff()
    assert torch.allclose(gaps, gaps.mean().expand_as(gaps), rtol=1e-6)


def test_karras_at_10_steps_as_edm_has_it():
    """Levels of EDM's example, σ from 80 to 0.002, ρ = 7 (Karras et al. 2022, eq. 5 with N = 11)."""
    i = torch.arange(11, dtype=F64)
    expected = (80 ** (1 / 7) + i / 10 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    assert torch.allclose(karras(10, 80.0, 0.002), expected)


@pytest.mark.parametrize("name", ALIGN_YOUR_STEPS)
def test_align_your_steps(name):
    schedule = VPDiscrete.from_betas("scaled_linear")
    levels = schedule.level(torch.tensor(ALIGN_YOUR_STEPS[name], dtype=F64))
    assert torch.allclose(align_your_steps(levels, 10), levels)
    five = align_your_steps(levels, 5)
    assert torch.allclose(five, levels[::2])
    twenty = align_your_steps(levels, 20)
    assert torch.allclose(twenty[1::2], (levels[1:] * levels[:-1]).sqrt())


@pytest.mark.parametrize(
    "levels, sentence",
    [
        ([1.0], "at least two"),
        ([2.0, float("nan"), 1.0], "NaN"),
        ([2.0, 1.0, -1.0], "negative"),
        ([2.0, 1.0, 1.0], "fall strictly"),
        ([1.0, 2.0], "fall strictly"),
    ],
)
def test_bad_grids(levels, sentence):
    with pytest.raises(InputError, match=sentence):
        check_grid(torch.tensor(levels))


def test_unknown_grid_and_no_steps():
    with pytest.raises(InputError, match="karras, logsnr, uniform, quadratic"):
        make_grid("cosine", 5, 80.0, 0.002, VPLinear())
    with pytest.raises(InputError, match="negative"):
        karras(5, 80.0, -0.1)
    with pytest.raises(InputError, match="at least one step"):
        karras(0, 80.0, 0.002)
