"""Training resumes to the bit, and learns."""

import torch

from s4s_nb import training
from s4s_nb.training import edm_loss, learning_rate, train
from s4s_nb.unet import EDM, UNet


def tiny() -> EDM:
    torch.manual_seed(0)
    return EDM(UNet(channels=(8, 32), width=16, classes=2), sigma_data=0.5)


def images() -> tuple[torch.Tensor, torch.Tensor]:
    """Bright on the left or on the right, by label."""
    labels = torch.arange(20) % 2
    x = torch.zeros(20, 1, 8, 8, dtype=torch.uint8)
    x[labels == 0, :, :, :4], x[labels == 1, :, :, 4:] = 200, 200
    return x, labels


def test_an_interrupted_run_ends_with_the_same_bits(tmp_path, monkeypatch):
    x, labels = images()
    whole, _ = train(tiny(), x, labels, tmp_path / "whole.safetensors", 80, batch=8)

    monkeypatch.setattr(training, "SAVE_EVERY_SECONDS", 0)
    steps, update = [], training.update

    def killed_at_the_sixth(*arguments):
        steps.append(1)
        if len(steps) == 6:
            raise KeyboardInterrupt
        return update(*arguments)

    monkeypatch.setattr(training, "update", killed_at_the_sixth)
    state = tmp_path / "cut.safetensors"
    try:
        train(tiny(), x, labels, state, 80, batch=8)
    except KeyboardInterrupt:
        pass
    monkeypatch.setattr(training, "update", update)
    resumed, record = train(tiny(), x, labels, state, 80, batch=8)
    assert record["images_seen"] == 80
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_the_loss_falls(tmp_path):
    x, labels = images()
    scaled = x / 127.5 - 1
    model = tiny()

    def loss() -> float:
        with torch.no_grad():
            repeated = scaled.repeat(10, 1, 1, 1), labels.repeat(10)
            return float(edm_loss(model, *repeated, torch.Generator().manual_seed(1)))

    before = loss()
    train(model, x, labels, tmp_path / "state.safetensors", 800, batch=8)
    assert loss() < 0.7 * before


def test_preconditioning_at_the_extremes():
    """At tiny σ the denoiser is the identity, whatever the network says."""
    model = tiny()
    for parameter in model.net.head.parameters():
        torch.nn.init.normal_(parameter)
    x, label = torch.randn(2, 1, 8, 8), torch.tensor([0, 2])
    assert (model(x, torch.full((2,), 1e-4), label) - x).abs().max() < 1e-2


def test_learning_rate_warms_up_and_ends_at_zero():
    assert learning_rate(0.0) == 0.0
    assert learning_rate(0.02) == 1e-3
    assert learning_rate(1.0) < 1e-12
