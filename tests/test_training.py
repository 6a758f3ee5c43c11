"""Training resumes to the bit, also after kill -9, and learns; several processes train one network."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch

from s4s_nb.errors import InputError
from s4s_nb.files import read_safetensors
from s4s_nb.learn.resume import StateFile
from s4s_nb.training.losses import edm_loss
from s4s_nb.training.train import averaged, learning_rate, restore_state, state_of, train
from tests.tiny_training import images, tiny, train_tiny

SCRIPT = Path(__file__).with_name("tiny_training.py")
ENVIRONMENT = os.environ | {"PYTHONPATH": str(SCRIPT.parent.parent)}


def test_a_killed_run_ends_with_the_same_bits(tmp_path):
    """kill -9 as soon as a state is there, again and again, until the run is through."""
    # In a process of its own as well: the script has one thread, and sums depend on their number.
    subprocess.run([sys.executable, SCRIPT, tmp_path / "whole.safetensors"], env=ENVIRONMENT, check=True)
    whole = train_tiny(tmp_path / "whole.safetensors")  # nothing is left to do: it reads the weights
    state, kills, steps = tmp_path / "killed.safetensors", 0, [0]
    while True:
        run = subprocess.Popen([sys.executable, SCRIPT, state], env=ENVIRONMENT, stderr=subprocess.DEVNULL)
        while run.poll() is None and (kills >= 3 or steps_in(state) < steps[-1] + 3):
            time.sleep(0.02)
        if run.poll() is not None:
            break
        run.send_signal(signal.SIGKILL)
        run.wait()
        kills += 1
        steps.append(steps_in(state))
    assert run.returncode == 0 and kills == 3
    assert 0 < steps[1] < steps[2] < steps[3] < 30  # each went on where the last had stopped
    resumed = train_tiny(state)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def steps_in(state: Path) -> int:
    """How far the run has saved its state."""
    if not state.exists():
        return 0
    model = tiny()
    optimizer = torch.optim.Adam(model.parameters())
    tensors, metadata = read_safetensors(state)
    kept = {**json.loads(metadata["record"]), **tensors}
    return restore_state(kept, model, averaged(model, 8), optimizer)["step"]


def test_two_processes_train_one_network(tmp_path):
    """Under torchrun each takes half of the batch; all end with the same weights, which fit the data."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, SCRIPT, tmp_path / "state.safetensors", tmp_path / "weights"]
    subprocess.run(command, env=ENVIRONMENT | {"OMP_NUM_THREADS": "1"}, check=True, capture_output=True)
    ours, theirs = (read_safetensors(tmp_path / f"weights.{rank}")[0] for rank in (0, 1))
    alone = train_tiny(tmp_path / "alone.safetensors")
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert any(not torch.equal(ours[name], alone[name]) for name in ours)
    assert loss_with(ours) < 0.9 * loss_with(tiny().state_dict())


def loss_with(weights: dict[str, torch.Tensor]) -> float:
    """The training loss over many noises."""
    model = tiny()
    model.load_state_dict(weights)
    x, labels = images()
    repeated = (x / 127.5 - 1).repeat(10, 1, 1, 1), labels.repeat(10)
    with torch.no_grad():
        return float(edm_loss(model, *repeated, torch.Generator().manual_seed(1)))


def test_the_loss_falls(tmp_path):
    model, before = tiny(), loss_with(tiny().state_dict())
    train(model, *images(), edm_loss, tmp_path / "state.safetensors", 800, batch=8)
    assert loss_with(model.state_dict()) < 0.7 * before


def test_the_average_has_a_half_life_of_40000_images_or_a_tenth_of_what_was_seen():
    model, batch = torch.nn.Linear(1, 1, bias=False), 100
    average, expected = averaged(model, batch), 0.0
    for step in range(6000):
        model.weight.data.fill_(math.sin(step / 50))
        average.update_parameters(model)
        half_life = min(40_000, 0.1 * (step + 1) * batch)
        decay = 0.5 ** (batch / half_life) if step else 0.0
        expected = decay * expected + (1 - decay) * math.sin(step / 50)
    assert float(average.module.weight) == pytest.approx(expected, abs=1e-5)
    assert abs(expected - math.sin(5999 / 50)) > 0.1, "it is no copy"


def test_a_state_holds_weights_average_and_moments(tmp_path):
    """What is read back goes on as what was written."""
    model, (x, labels) = tiny(), images()
    optimizer, average = torch.optim.Adam(model.parameters(), fused=True), averaged(model, 8)
    record = {"step": 0, "seconds": 0.0, "loss": 0.0, "hardware": "none"}

    def step(model, optimizer, average):
        generator = torch.Generator().manual_seed(record["step"])
        loss = edm_loss(model, x / 127.5 - 1, labels, generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        average.update_parameters(model)

    for record["step"] in (1, 2, 3):
        step(model, optimizer, average)
    kept = StateFile(tmp_path / "state.safetensors", {})
    kept.save(state_of(model, average, optimizer, record))
    other = tiny()
    known, beside = torch.optim.Adam(other.parameters(), fused=True), averaged(other, 8)
    assert restore_state(kept.load(), other, beside, known) == record
    for parts in ((model, optimizer, average), (other, known, beside)):
        step(*parts)
    for one, two in ((model, other), (average.module, beside.module)):
        pairs = zip(one.state_dict().values(), two.state_dict().values(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
    assert any(
        not torch.equal(a, b) for a, b in zip(average.module.parameters(), model.parameters(), strict=True)
    )


def test_preconditioning_at_the_extremes():
    """At tiny σ the denoiser is the identity, whatever the network says."""
    model = tiny()
    for parameter in model.get_submodule("net.head").parameters():
        torch.nn.init.normal_(parameter)
    x, label = torch.randn(2, 1, 8, 8), torch.tensor([0, 2])
    assert (model(x, torch.full((2,), 1e-4), label) - x).abs().max() < 1e-2


def test_learning_rate_warms_up_and_ends_at_zero():
    assert learning_rate(0.0) == 0.0
    assert learning_rate(0.02) == 1e-3
    assert learning_rate(1.0) < 1e-12


@pytest.mark.parametrize(
    "other", [{"total_images": 160}, {"seed": 1}, {"batch": 4}, {"loss_of": partial(edm_loss, p_std=1.0)}]
)
def test_a_state_of_another_training_is_refused(other, tmp_path):
    x, labels = images()
    options = {"total_images": 80, "batch": 8, "loss_of": edm_loss, "state_file": tmp_path / "state"}
    train(tiny(), x, labels, **options)
    with pytest.raises(InputError, match="another run"):
        train(tiny(), x, labels, **options | other)
    with pytest.raises(InputError, match="another run"):
        train(tiny(), x.flip(0), labels, **options)
