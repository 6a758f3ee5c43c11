"""LPIPS, features and the Fréchet distance: published values, closed forms, invariances; and the judge."""

import numpy as np
import pytest
import torch
from PIL import Image

from s4s_nb.classic import AS_USED, make_solver
from s4s_nb.comparison import Comparison, as_table, label_of
from s4s_nb.distances import lpips_distance, rmse
from s4s_nb.errors import InputError
from s4s_nb.evaluate import evaluate, evaluate_teacher, judged, sample, target_of
from s4s_nb.files import data_file
from s4s_nb.frechet import extractor, extrapolated, features, frechet_distance, moments
from s4s_nb.models import Model
from s4s_nb.models.bundled import load, reference
from s4s_nb.opponents import compare
from s4s_nb.pairs import run, seeded_noise
from tests.problems import MIXTURE


def picture(name: str) -> torch.Tensor:
    pixels = np.asarray(Image.open(data_file(f"lpips_example/ex_{name}.png")).convert("RGB"))
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None] / 127.5 - 1


@pytest.mark.parametrize("name, published", [("p0", 0.722), ("p1", 0.138)])
def test_lpips_gives_the_values_that_its_authors_publish(name, published):
    assert lpips_distance()(picture("ref"), picture(name)).item() == pytest.approx(published, abs=1e-3)


def test_lpips_of_small_grey_images_is_zero_on_equals_and_has_gradients():
    x = torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(0)) * 2 - 1
    y = x.flip(-1).requires_grad_()
    assert lpips_distance()(x, x).abs().max() == 0
    lpips_distance()(x, y).sum().backward()
    assert y.grad is not None and y.grad.abs().max() > 0


def test_lpips_is_a_sum_of_squares():
    x, y = picture("ref"), picture("p0")
    embed = lpips_distance().embed
    assert (embed(x) - embed(y)).square().sum().item() == pytest.approx(
        lpips_distance()(x, y).item(), rel=1e-4
    )


def test_rmse_is_per_image():
    x = torch.zeros(2, 1, 4, 4)
    y = torch.stack([torch.full((1, 4, 4), 0.5), torch.full((1, 4, 4), -2.0)])
    assert rmse(x, y).tolist() == [0.5, 2.0]


def test_frechet_distance_of_gaussians_in_closed_form():
    """Commuting covariances: ‖Δμ‖² + Σ (√a − √b)²."""
    generator = torch.Generator().manual_seed(0)
    basis, _ = torch.linalg.qr(torch.randn(6, 6, generator=generator, dtype=torch.float64))
    a, b = (torch.rand(6, generator=generator, dtype=torch.float64) for _ in range(2))
    shift = torch.arange(6, dtype=torch.float64)
    p = torch.zeros(6, dtype=torch.float64), basis * a @ basis.T
    q = shift, basis * b @ basis.T
    exact = float(shift.square().sum() + (a.sqrt() - b.sqrt()).square().sum())
    assert frechet_distance(p, q) == pytest.approx(exact, rel=1e-10)
    assert frechet_distance(q, q) == pytest.approx(0, abs=1e-10)


def test_frechet_distance_agrees_with_scipy():
    linalg = pytest.importorskip("scipy.linalg")
    generator = torch.Generator().manual_seed(1)
    p, q = (
        moments(torch.randn(40, 8, generator=generator, dtype=torch.float64) @ torch.diag(scale))
        for scale in (torch.ones(8).double(), torch.linspace(0.5, 2, 8).double())
    )
    root = linalg.sqrtm((p[1] @ q[1]).numpy()).real
    other = (p[0] - q[0]).square().sum() + torch.trace(p[1] + q[1]) - 2 * np.trace(root)
    assert frechet_distance(p, q) == pytest.approx(float(other), rel=1e-8)


def test_feature_network_sees_noise_and_blur_but_not_8_bit_rounding():
    x = picture("ref")
    noisy = x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    f, g, h = features(torch.cat([x, x + 1e-4, noisy]))
    assert f.shape == (256,)
    assert (f - g).norm() < 1e-3 * (f - h).norm()


def test_feature_weights_are_frozen():
    assert not any(p.requires_grad for p in extractor().parameters())


def test_real_floor_shrinks_with_the_sample_count():
    """The bias of a Fréchet distance falls with n: the reason why counts must agree."""
    ref = reference("fashion")
    assert ref.floor_distance(125) > ref.floor_distance(250) > ref.floor_distance(500) > 0


def test_extrapolation_removes_most_of_the_bias_of_few_samples():
    """Two Gaussians with means a unit apart: F = 1, and some 0.5 more of 60 samples in 8 dimensions."""
    generator = torch.Generator().manual_seed(0)
    plain, limit = [], []
    for _ in range(30):
        f, g = torch.randn(2, 60, 8, generator=generator, dtype=torch.float64).unbind()
        f[:, 0] += 1

        def distance(chosen, f=f, g=g):
            return frechet_distance(moments(f[chosen]), moments(g[chosen]))

        plain.append(distance(torch.arange(60)))
        limit.append(extrapolated(distance, 60))
    bias, left = (sum(values) / 30 - 1 for values in (plain, limit))
    assert bias > 0.3 and abs(left) < bias / 3


# ---------------------------------------------------------------- the judge


@pytest.fixture
def model() -> Model:
    """The exact mixture, whose states are no images."""
    return Model(MIXTURE, shape=(2,), sigma_max=10.0, sigma_min=0.01, name="mixture")


def test_samples_are_those_of_the_test_noises_of_a_seed(model):
    solver = make_solver("dpmpp-2m", 4, model.grid("karras"))
    for seed in (0, 3):
        starts = 10 * seeded_noise("test", 5, (2,), first=10_000 * seed)
        assert sample(model, solver, 5, seed).allclose(run(MIXTURE, starts, solver))
    assert not sample(model, solver, 5).allclose(sample(model, solver, 5, seed=1))


def test_a_row_is_measured_against_the_teacher_of_the_same_noises(model):
    solver = make_solver("dpmpp-2m", 4, model.grid("karras"))
    ends, target = sample(model, solver, 30, seed=2), sample(model, model.teacher(), 30, seed=2)
    row, images = judged(model, solver, 30, seed=2)
    assert row["rmse"] == pytest.approx(float(rmse(ends, target).mean())) and row["samples"] == 30
    assert row["nfe"] == 4 and images.allclose(ends)
    assert not {"lpips", "fd_teacher", "fd_real"} & set(row), "what is no image has no such distance"
    assert evaluate(model, model.teacher(), 30)["rmse"] == 0
    teacher = evaluate_teacher(model, 30)
    assert (teacher["rmse"], teacher["nfe"], teacher["samples"]) == (0.0, 60, 30)


def test_a_solver_is_not_judged_on_fewer_than_four_samples_or_more_than_a_seed_has(model):
    solver = make_solver("euler", 1, model.grid("karras"))
    for judge in (lambda n: evaluate(model, solver, n), lambda n: evaluate_teacher(model, n)):
        for count in (3, 10_001):
            with pytest.raises(InputError, match=f"4 to 10,000 samples; asked for {count}"):
                judge(count)
    assert evaluate(model, solver, 4)["samples"] == 4


def test_a_stored_teacher_is_used_for_the_noises_that_it_has_and_for_no_others(monkeypatch):
    fashion = load("fashion")
    assert torch.equal(target_of(fashion, 7, 0).images, reference("fashion").teacher[:7])
    two = make_solver("euler", 2, fashion.grid("karras"))
    monkeypatch.setattr(Model, "teacher", lambda self: two)
    assert target_of(fashion, 4, 1).images.allclose(sample(fashion, two, 4, seed=1), atol=1e-5)


def test_solvers_stand_beside_the_classical_ones_and_the_teacher(model):
    own = make_solver("dpm-2s", 4, model.grid("logsnr"))
    comparison = compare(model, 3, [own], ["uniform", "karras"], samples=20)
    names = [(row["grid"], row["solver"], row["kind"]) for row in comparison.rows]
    classical = [(grid, label, "classical") for grid in ("uniform", "karras") for label in AS_USED]
    assert names == [*classical, ("own", "dpm-2s", "learned"), ("own", "teacher", "teacher")]
    end = comparison.rows[0]["end"]
    euler = evaluate(model, make_solver("euler", 3, model.grid("uniform", end)), 20)
    assert comparison.rows[0]["rmse"] == euler["rmse"]
    assert [len(images) for images in comparison.images] == [10] * 14
    assert str(comparison) == as_table(comparison.rows)
    assert comparison._repr_html_().count("<tr") == 1 + 14
    with pytest.raises(InputError, match="no picture"):
        comparison.picture()


def test_a_picture_shows_each_classical_solver_where_it_is_nearest():
    def row(solver, kind, grid, lpips):
        return {"solver": solver, "kind": kind, "grid": grid, "nfe": 5, "lpips": lpips}

    rows = [
        row("DDIM", "classical", "karras", 0.3),
        row("DDIM", "classical", "logsnr", 0.2),
        row("mine", "learned", "karras, moved", 0.0254),
        {**row("teacher", "teacher", "own", 0.0), "nfe": 60},
    ]
    assert label_of(rows[2]) == "mine, karras, moved\n5 NFE, LPIPS 0.025"
    assert label_of(rows[3]) == "teacher\n60 NFE"
    comparison = Comparison(rows, [torch.full((3, 1, 4, 4), i / 3) for i in range(4)])
    means = [np.asarray(axis.images[0].get_array()).mean() for axis in comparison.picture().axes]
    assert means == pytest.approx([(i / 3 + 1) / 2 for i in (1, 2, 3) for _ in range(3)])


def test_a_table_leaves_out_what_no_row_has_and_keeps_three_digits():
    table = as_table([{"solver": "a", "nfe": 5, "lpips": 0.123456}, {"solver": "b", "nfe": 10}])
    assert table.splitlines()[0].split("  ")[0].strip() == "solver"
    assert "LPIPS to teacher" in table and "0.123" in table and "0.1234" not in table
    assert "FD" not in table and "s / 100" not in table


def test_the_teachers_row_has_what_the_rows_of_solvers_have():
    model = load("fashion")
    solver = make_solver("euler", 1, model.grid("karras"))
    assert set(evaluate_teacher(model, 4)) == set(evaluate(model, solver, 4))
