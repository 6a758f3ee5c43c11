"""The project's own files agree: one version, one set of packages, one test command, no strays."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from jaxtyping import TypeCheckError
from packaging.requirements import Requirement

import s4s_nb
from s4s_nb.mixtures import GaussianMixture
from s4s_nb.multistep import linear_multistep
from s4s_nb.solvers import Solver

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
TOP_LEVEL = set(
    "notebooks s4s_nb data tests environment.yml README.md pyproject.toml LICENSE CITATION.cff"
    " CHANGELOG.md .ci .github .gitignore .devcontainer".split()
)
# Neither this pattern nor the path of a web address matches it.
MACHINE_PATH = re.compile(
    r"(?<![\w.~-])/(?:home|Users|root|work|tmp|mnt|srv|opt|usr/lib|usr/local)/\w|[A-Z]:\\+Users"
)


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def bounds(requirements: list[str]) -> dict[str, str]:
    """{name: bound}; conda's specifications read as pip's where they are lower bounds."""
    parsed = [Requirement(r) for r in requirements]
    return {r.name: str(r.specifier) for r in parsed}


def tracked() -> list[Path]:
    """The files that git tracks (and that are still there)."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    names = listing.stdout.decode().rstrip("\0").split("\0")
    return [ROOT / name for name in names if (ROOT / name).is_file()]


# ---------------------------------------------------------------- packages and version


def test_environment_asks_for_what_pyproject_asks_for():
    environment = yaml.safe_load(read("environment.yml"))
    conda = [r for r in environment["dependencies"] if isinstance(r, str) and r != "pip"]
    (by_pip,) = (r["pip"] for r in environment["dependencies"] if isinstance(r, dict))
    packages = [r for r in by_pip if not r.startswith("-e")]
    assert environment["channels"] == ["conda-forge"]
    assert [r for r in by_pip if r.startswith("-e")] == ["-e .[test]"]
    assert {"torch", "torchvision"} <= set(bounds(packages)), "torch and torchvision come as a pair"
    python = {"python": PROJECT["requires-python"]}
    assert bounds(conda) | bounds(packages) == bounds(PROJECT["dependencies"]) | python


def imports(path: Path) -> set[str]:
    """Top names of the modules that a file imports."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    modules = [alias.name for n in nodes if isinstance(n, ast.Import) for alias in n.names]
    modules += [n.module for n in nodes if isinstance(n, ast.ImportFrom) and n.module]
    return {module.split(".")[0] for module in modules}


@pytest.mark.parametrize("folder", ["s4s_nb", "tests"])
def test_what_is_imported_is_required(folder):
    imported = set().union(*map(imports, (ROOT / folder).rglob("*.py")))
    other_names = {"IPython": "ipython", "PIL": "pillow", "yaml": "pyyaml"}
    third_party = imported - sys.stdlib_module_names - {"s4s_nb", "tests"}
    required = bounds(PROJECT["dependencies"] + PROJECT["optional-dependencies"]["test"])
    assert {other_names.get(name, name) for name in third_party} <= set(required)


def test_shapes_in_signatures_are_checked_under_test():
    with pytest.raises(TypeCheckError, match="weights"):
        linear_multistep(torch.tensor([3.0, 2.0, 1.0]), torch.eye(3), "noise")


def test_requirements_are_lower_bounds():
    extras = PROJECT["optional-dependencies"].values()
    requirements = [*PROJECT["dependencies"], *(r for extra in extras for r in extra)]
    for name, bound in bounds(requirements).items():
        assert re.fullmatch(r">=[\d.]+", bound), f"{name}{bound}"


def test_changelog_and_citation_name_the_version_of_the_package():
    citation = yaml.safe_load(read("CITATION.cff"))
    entry = re.search(r"^## \[?(\d+\.\d+\.\d+)\]?\W+(\d{4}-\d\d-\d\d)", read("CHANGELOG.md"), re.M)
    assert entry, "CHANGELOG.md has no entry of the form: ## 0.1.0 (2026-01-31)"
    assert entry.groups() == (citation["version"], str(citation["date-released"]))
    assert entry[1] == s4s_nb.__version__


def test_citation_cites_the_s4s_paper():
    (paper,) = yaml.safe_load(read("CITATION.cff"))["references"]
    authors = [author["family-names"] for author in paper["authors"]]
    assert authors == ["Frankel", "Chen", "Li", "Koh", "Ratliff", "Oh"]
    assert paper["title"] == "S4S: Solving for a Fast Diffusion Model Solver"
    assert (paper["volume"], paper["year"]) == (267, 2025)
    assert [i["value"] for i in paper["identifiers"]] == ["arXiv:2502.17423"]


# ---------------------------------------------------------------- what git tracks


def test_every_tracked_file_is_safetensors_png_or_text():
    """So none is a pickle, whatever its name: from protocol 2 on those are not UTF-8."""
    for path in tracked():
        head = path.read_bytes()[:9]
        if path.suffix == ".safetensors":
            assert head[8:9] == b"{", path  # the JSON header, after its length
        elif path.suffix == ".png":
            assert head.startswith(b"\x89PNG"), path
        else:
            assert path.suffix not in {".pkl", ".pickle", ".pt", ".pth", ".ckpt"}, path
            path.read_text(encoding="utf-8")


def test_top_level_holds_only_the_agreed_names():
    assert {path.relative_to(ROOT).parts[0] for path in tracked()} <= TOP_LEVEL


def test_no_tracked_text_holds_a_path_of_one_machine():
    for path in tracked():
        if path.suffix not in {".safetensors", ".png"}:
            found = MACHINE_PATH.search(path.read_text(encoding="utf-8"))
            assert not found, f"{path.relative_to(ROOT)} holds {found[0]}"


@pytest.mark.parametrize("root", ["see /", '"/', "file:///"])
@pytest.mark.parametrize("folder", ["home", "root", "tmp", "usr/lib"])
def test_machine_paths_are_found(root, folder):
    assert MACHINE_PATH.search(f"{root}{folder}/me")


@pytest.mark.parametrize("text", ["https://a.org/home/x", "~/.cache", "data/x", "#!/usr/bin/env"])
def test_other_paths_are_left_alone(text):
    assert not MACHINE_PATH.search(text)


# ---------------------------------------------------------------- one test command


def readme() -> str:
    if not (ROOT / "README.md").exists():
        pytest.skip("no README.md yet")
    return read("README.md")


def marked(name: str, text: str) -> str:
    """The fenced bash command after the comment ``name`` of README.md."""
    (command,) = re.findall(rf"<!-- {name} -->\n```bash\n(.*?)\n```", text, re.DOTALL)
    return command


# Stands in for python3, pip and pytest: notes the call; what it installs is itself.
STAND_IN = """#!/usr/bin/env bash
echo "${0##*/} $*" >> calls
if [ "${1-}" = -m ]; then mkdir -p .venv/bin; cp "$0" .venv/bin/pip; cp "$0" .venv/bin/pytest; fi
if [ "${0##*/}" = pytest ]; then echo "1 failed"; exit 3; fi
"""


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """An empty checkout with .ci/run and README.md, where python3 is the stand-in."""
    if sys.platform == "win32":
        pytest.skip(".ci/run needs bash")
    (tmp_path / "bin").mkdir()
    for name, text in [("bin/python3", STAND_IN), ("README.md", readme())]:
        (tmp_path / name).write_text(text, encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    (tmp_path / ".ci").mkdir()
    (tmp_path / ".ci/run").write_text(read(".ci/run"), encoding="utf-8")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def bash(folder: Path, *arguments: str) -> tuple[subprocess.CompletedProcess, str]:
    """The finished command, and the calls that it made."""
    done = subprocess.run(["bash", *arguments], cwd=folder, capture_output=True, text=True)
    calls = folder / "calls"
    made = calls.read_text(encoding="utf-8") if calls.exists() else ""
    calls.unlink(missing_ok=True)
    return done, made


def test_ci_executes_the_test_command_of_the_readme(checkout):
    _, expected = bash(checkout, "-c", marked("test", readme()))
    stale = checkout / ".venv/stale"
    stale.touch()
    done, calls = bash(checkout, ".ci/run")
    assert calls == expected and "pytest" in calls
    assert not stale.exists(), "an old .venv must go first"
    assert done.stdout.splitlines()[-1] == "1 failed", "pytest's closing line comes last"
    assert done.returncode == 3, "the status is pytest's"


def test_ci_fails_without_a_command_in_the_readme(checkout):
    (checkout / "README.md").write_text("# no commands\n", encoding="utf-8")
    done, calls = bash(checkout, ".ci/run")
    assert done.returncode != 0 and not calls


@pytest.mark.skipif(sys.platform == "win32", reason="no executable bit")
def test_ci_is_executable():
    assert os.access(ROOT / ".ci/run", os.X_OK)


def test_readme_commands_set_up_alike_and_exist():
    blocks = re.findall(r"```bash\n(.*?)\n```", readme(), re.DOTALL)
    tour, test = marked("tour", readme()), marked("test", readme())
    assert blocks == [tour, test]
    assert tour.split(" -e ")[0] == test.split(" -e ")[0]
    programs = {"pip", "pytest", *PROJECT["scripts"]}
    assert set(re.findall(r"\.venv/bin/(\S+)", "\n".join(blocks))) <= programs


def test_workflow_runs_the_same_command_from_the_oldest_python_on():
    job = yaml.safe_load(read(".github/workflows/test.yml"))["jobs"]["test"]
    assert "bash .ci/run" in [step.get("run") for step in job["steps"]]
    assert f">={job['strategy']['matrix']['python'][0]}" == PROJECT["requires-python"]


def python_of_readme() -> str:
    return "\n".join(re.findall(r"```python\n(.*?)\n```", readme(), re.DOTALL))


@pytest.mark.parametrize("side, channels", [(16, 1), (40, 3)])
def test_the_python_of_the_readme_runs_for_a_model_that_the_package_has_never_seen(
    tmp_path, monkeypatch, side, channels
):
    """Two Gaussians of images; few pairs, iterations and samples, one grid; else to the letter."""
    monkeypatch.chdir(tmp_path)
    generator = torch.Generator().manual_seed(0)
    means = torch.rand(2, channels * side**2, generator=generator, dtype=torch.float64) * 2 - 1
    mixture = GaussianMixture(means, torch.tensor([0.1, 0.2]))

    def denoise(x, sigma):
        return mixture(x.flatten(1).double(), sigma).reshape(x.shape).to(x.dtype)

    code = python_of_readme()
    lines = [line for line in code.splitlines() if line.strip() and not line.startswith("#")]
    assert len(lines) <= 10
    for old, new in {
        "out=": "pairs=6, iterations=3, start='dpmpp-2m', grid='karras', out=",
        "solvers=[": "samples=8, grids=['karras'], solvers=[",
        "count=16": "count=3",
        "3, 32, 32": f"{channels}, {side}, {side}",
    }.items():
        assert old in code
        code = code.replace(old, new)
    names: dict[str, Any] = {"denoise": denoise}
    exec(code, names)
    record = Solver.load(tmp_path / "five.safetensors").info
    assert record["optimiser"] == "BFGS" and record["validation_best"] < record["validation_start"]
    assert (tmp_path / "five.png").read_bytes().startswith(b"\x89PNG")
    lpips = {row["solver"]: row["lpips"] for row in names["comparison"].rows}
    assert lpips["s4s-dpmpp-2m"] < lpips["DPM-Solver++ 2M"]
    assert names["images"].shape == (3, channels, side, side)


def test_the_readme_imports_the_package_before_torch():
    """OMP_WAIT_POLICY is read when torch is imported, and the package sets it."""
    names = re.findall(r"^\s*(?:import|from) (\w+)", python_of_readme(), re.M)
    assert names[0] == "s4s_nb"
    script = "import s4s_nb, os; print(os.environ['OMP_WAIT_POLICY'])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "passive"
