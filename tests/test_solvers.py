"""The table, its loop and its file refuse what would fail in silence."""

import pytest
import torch
from safetensors.torch import save_file

from s4s_nb.classic import make_solver
from s4s_nb.errors import DivergedError, InputError
from s4s_nb.files import data_file, read_safetensors, replace_file, write_safetensors
from s4s_nb.solvers import FORMAT, TABLE, Solver, combine, solve, trajectory
from tests.problems import F64, fake_denoiser, log_grid, noise, same_bits

EULER = make_solver("euler", 3, log_grid)


def changed(**parts) -> Solver:
    """The Euler table with some parts replaced."""
    own = {key: getattr(EULER, key) for key in ("sigmas", "A", "B", "model_sigmas", "kappa")}
    return Solver("changed", **(own | parts))


@pytest.mark.parametrize(
    "parts, sentence",
    [
        ({"A": torch.eye(4, dtype=F64)}, "must have shape"),
        ({"sigmas": torch.tensor(1.0, dtype=F64)}, "at least two levels"),
        ({"kappa": torch.ones(2, dtype=F64)}, "must have shape"),
        ({"B": torch.full((3, 3), torch.nan, dtype=F64)}, "NaN"),
        ({"B": torch.ones(3, 3, dtype=F64)}, "lower-triangular"),
        ({"sigmas": torch.tensor([1.0, 2.0, 0.5, 0.1], dtype=F64)}, "must fall"),
        ({"sigmas": torch.tensor([3.0, 2.0, 0.5, -0.1], dtype=F64)}, "must fall"),
        ({"sigmas": torch.tensor([3.0, 2.0, torch.inf, 0.1], dtype=F64)}, "infinite"),
        ({"model_sigmas": torch.tensor([3.0, 2.0, 0.0], dtype=F64)}, "stay positive"),
    ],
)
def test_bad_tables(unchecked, parts, sentence):
    with pytest.raises(InputError, match=sentence):
        changed(**parts)


def test_the_loop_is_the_equation():
    """x_{i+1} = Σ A x + Σ B D with D_j = denoise(κ_j x_j, s_j), written out for dense matrices."""
    generator = torch.Generator().manual_seed(0)
    A, B = (torch.randn(3, 3, generator=generator, dtype=F64).tril() for _ in range(2))
    kappa = torch.tensor([1.0, 0.9, 1.2], dtype=F64)
    levels = torch.tensor([3.5, 1.1, 0.4], dtype=F64)
    solver = changed(A=A, B=B, kappa=kappa, model_sigmas=levels)
    x, d = [noise()], []
    for i in range(3):
        d.append(fake_denoiser(kappa[i] * x[i], levels[i]))
        x.append(torch.stack([A[i, j] * x[j] + B[i, j] * d[j] for j in range(i + 1)]).sum(0))
    states, outputs = trajectory(fake_denoiser, noise(), solver)
    assert all(torch.allclose(a, b, rtol=1e-13) for a, b in zip(states + outputs, x + d, strict=True))


def test_samples_do_not_depend_on_their_batch():
    whole = solve(fake_denoiser, noise(), EULER)
    parts = torch.cat([solve(fake_denoiser, x, EULER) for x in noise().split(5)])
    assert torch.equal(whole, parts)


def test_the_state_keeps_its_precision():
    assert solve(fake_denoiser, noise().float(), EULER).dtype == torch.float32


def test_predictions_are_checked():
    """Only what is not finite has blown up; another shape is a mistake, which no learner may swallow."""
    with pytest.raises(InputError, match="shape .* at evaluation 1 of 3") as caught:
        solve(lambda x, s: x[:, :1], noise(), EULER)
    assert not isinstance(caught.value, DivergedError)
    with pytest.raises(DivergedError, match="NaN or infinity at evaluation 2 of 3"):
        solve(lambda x, s: x / 0 if s < 2 else x, noise(), EULER)


def test_tables_that_are_not_finite_have_blown_up_and_others_are_mistakes():
    for parts in ({"B": EULER.B * torch.nan}, {"sigmas": EULER.sigmas.flip(0)}):
        with pytest.raises(DivergedError):
            changed(**parts)
    with pytest.raises(InputError) as caught:
        changed(B=torch.ones(3, 3, dtype=F64))
    assert not isinstance(caught.value, DivergedError)


def test_a_condition_reaches_every_evaluation():
    seen = []

    def denoise(x, sigma, *, label):
        seen.append(label)
        return x * label

    label = torch.arange(16.0)[:, None]
    end = solve(denoise, noise(), EULER, {"label": label})
    assert len(seen) == 3 and all(torch.equal(each, label) for each in seen)
    assert torch.equal(end[3:5], solve(denoise, noise()[3:5], EULER, {"label": label[3:5]}))


def test_weights_of_zero_are_skipped_unless_they_are_learned():
    """Guards gradients at a classic solver, most of whose weights are 0 and may move from there."""
    vectors = [torch.full((2,), torch.inf, dtype=F64), torch.ones(2, dtype=F64)]
    weights = torch.tensor([0.0, 2.0], dtype=F64)
    assert combine(weights, vectors).tolist() == [2.0, 2.0]
    assert combine(0 * weights, vectors).tolist() == [0.0, 0.0]
    weights, vectors = weights.requires_grad_(), [torch.full((2,), 3.0, dtype=F64), vectors[1]]
    (slope,) = torch.autograd.grad(combine(weights, vectors).sum(), weights)
    assert slope.tolist() == [6.0, 2.0]


def test_save_and_load(tmp_path):
    solver = changed(kappa=torch.tensor([1.0, 0.5, 2.0], dtype=F64))
    solver.info.update(method="s4s", quality={"lpips": 0.03})
    solver.save(tmp_path / "solver.safetensors")
    loaded = Solver.load(tmp_path / "solver.safetensors")
    for key in ("sigmas", "A", "B", "model_sigmas", "kappa"):
        assert torch.equal(getattr(loaded, key), getattr(solver, key))
    assert (loaded.name, loaded.info) == (solver.name, solver.info)


def test_missing_damaged_and_foreign_files(tmp_path):
    with pytest.raises(InputError, match="no file"):
        Solver.load(tmp_path / "nowhere.safetensors")
    (tmp_path / "damaged.safetensors").write_bytes(b"not a table")
    with pytest.raises(InputError, match="damaged"):
        Solver.load(tmp_path / "damaged.safetensors")
    metadata = {"format": "s4s_nb solver 2", "name": "x", "info": "{}"}
    write_safetensors(tmp_path / "partial.safetensors", {"sigmas": EULER.sigmas}, metadata)
    with pytest.raises(InputError, match="A solver file holds"):
        Solver.load(tmp_path / "partial.safetensors")
    write_safetensors(tmp_path / "foreign.safetensors", {"x": torch.zeros(1)}, {})
    with pytest.raises(InputError, match="not a solver file"):
        Solver.load(tmp_path / "foreign.safetensors")


def test_a_flipped_bit_anywhere_is_found(tmp_path):
    file = tmp_path / "solver.safetensors"
    EULER.save(file)
    whole = file.read_bytes()
    for place in range(0, len(whole), 7):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        try:
            loaded = Solver.load(file)
        except InputError:
            continue
        assert same_bits(loaded, EULER) and (loaded.name, loaded.info) == (EULER.name, EULER.info), place


@pytest.mark.parametrize("part", TABLE)
@pytest.mark.parametrize("dtype", [None, torch.int64, torch.bool, torch.complex64])
def test_a_table_that_lacks_a_part_or_has_none_of_floats_is_refused(part, dtype, tmp_path):
    tensors = {key: getattr(EULER, key).clone() for key in TABLE}
    tensors |= {part: tensors[part].to(dtype)} if dtype else {}
    if dtype is None:
        del tensors[part]
    metadata = {"format": FORMAT, "name": "x", "info": "{}"}
    save_file(tensors, tmp_path / "solver.safetensors", metadata)
    with pytest.raises(InputError, match="A solver file holds" if dtype is None else "tensor of floats"):
        Solver.load(tmp_path / "solver.safetensors")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_tables_are_float64_whatever_they_came_in(dtype, tmp_path):
    tensors = {key: getattr(EULER, key).to(dtype) for key in TABLE}
    save_file(tensors, tmp_path / "solver.safetensors", {"format": FORMAT, "name": "x", "info": "{}"})
    loaded = Solver.load(tmp_path / "solver.safetensors")
    assert all(getattr(loaded, key).dtype == F64 for key in TABLE)
    assert torch.equal(loaded.B, EULER.B.to(dtype).double())


@pytest.mark.parametrize("info", ["[]", "null", "3", "{", "[" * 100_000, None])
def test_an_info_that_is_no_dictionary_is_refused(info, tmp_path):
    metadata = {"format": FORMAT, "name": "x"} | ({"info": info} if info else {})
    save_file(
        {key: getattr(EULER, key).clone() for key in TABLE}, tmp_path / "solver.safetensors", metadata
    )
    with pytest.raises(InputError, match="info"):
        Solver.load(tmp_path / "solver.safetensors")


def test_a_failed_write_leaves_nothing(tmp_path):
    target = tmp_path / "result.json"
    target.write_text("old")

    def fail(path):
        path.write_text("half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        replace_file(target, fail)
    assert target.read_text() == "old" and list(tmp_path.iterdir()) == [target]


def test_data_files_are_checked_by_hash(tmp_path, monkeypatch):
    from s4s_nb import files

    with pytest.raises(InputError, match=r"fashion\.safetensors"):
        data_file("unknown.safetensors")
    monkeypatch.setattr(files, "DATA", tmp_path)
    data_file.cache_clear()
    with pytest.raises(InputError, match="git checkout"):
        data_file("fashion.safetensors")
    (tmp_path / "fashion.safetensors").write_bytes(b"something else")
    with pytest.raises(InputError, match="damaged or was replaced"):
        data_file("fashion.safetensors")
    data_file.cache_clear()


def test_every_data_file_is_whole_and_within_the_budget():
    from s4s_nb.files import DATA, manifest

    kept = {str(p.relative_to(DATA)) for p in DATA.rglob("*") if p.is_file()}
    assert kept == set(manifest()) | {"MANIFEST.json", "README.md", "results/README.md"}
    assert all(data_file(name).stat().st_size == entry["bytes"] for name, entry in manifest().items())
    assert all(entry["origin"] and entry["licence"] for entry in manifest().values())
    assert sum(p.stat().st_size for p in DATA.rglob("*")) < 60e6
    assert read_safetensors(data_file("fashion.safetensors"))[0]


@pytest.mark.parametrize("answer", [lambda d: (d,), lambda d: d.numpy(), lambda d: None])
def test_what_is_no_tensor_is_refused_in_a_sentence(answer):
    solver = make_solver("euler", 2, log_grid)
    with pytest.raises(InputError, match="returned a .*, not a tensor"):
        solve(lambda x, sigma: answer(x), noise(3), solver)
