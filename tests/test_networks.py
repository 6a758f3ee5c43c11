"""The bundled architectures and their losses, against identities that hold for any weights."""

from functools import partial

import pytest
import torch

from s4s_nb.models.autoencoder import Autoencoder, autoencoder_loss
from s4s_nb.models.bundled import COSINE, DDPM, FLOW, NETWORKS, new_network
from s4s_nb.models.classifier import Classifier, accuracy
from s4s_nb.models.dit import DiT
from s4s_nb.schedules import VE, VPLinear
from s4s_nb.training.losses import drop_labels, logit_normal_times, native_loss, timesteps, uniform_times
from s4s_nb.training.recipes import RECIPES

DIFFUSION = ("fashion", "faces", "faces-latent", "faces-flow")


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("name", DIFFUSION)
def test_networks_keep_the_shape_and_stay_small(name):
    net = new_network(name)
    shape = {"fashion": (1, 28, 28), "faces": (3, 32, 32)}.get(name, (4, 16, 16))
    x, t = torch.randn(2, *shape, generator=generator()), torch.tensor([0.3, 0.9])
    assert net(x, t, torch.tensor([0, net.classes])).shape == x.shape
    assert 0.5e6 < sum(p.numel() for p in net.parameters()) < 4e6


def test_a_transformer_starts_at_zero_and_then_sees_labels_time_and_every_patch():
    net = DiT(image_channels=2, side=4, patch=2, width=32, depth=2, classes=3)
    x, t, label = torch.randn(1, 2, 4, 4, generator=generator()), torch.ones(1), torch.tensor([1])
    assert net(x, t, label).abs().max() == 0
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.3, generator=generator())
    moved = x.clone()
    moved[0, 0, 3, 3] += 1.0
    out = net(x, t, label)
    for other in (net(x, t + 1, label), net(x, t, label + 1)):
        assert (other - out).abs().max() > 1e-4
    assert (net(moved, t, label) - out)[0, :, 0, 0].abs().min() > 1e-6


@pytest.mark.parametrize("schedule", [VE(), VPLinear(), COSINE, DDPM, FLOW])
def test_data_from_velocity_is_the_inverse_of_velocity(schedule):
    data, noise = torch.randn(2, 5, dtype=torch.float64, generator=generator())
    sigma = torch.logspace(-2, 1.5, 5, dtype=torch.float64)
    native = schedule.alpha(sigma) * (data + sigma * noise)
    v = schedule.velocity(data, noise, sigma)
    assert (schedule.data_from_velocity(native, v, sigma) - data).abs().max() < 1e-10


@pytest.mark.parametrize("schedule", [VPLinear(), COSINE, FLOW])
def test_velocity_is_the_derivative_of_the_native_state_up_to_the_speed_of_the_clock(schedule):
    """dx_t/dt for a flow; for VP the same direction, since its own clock is the angle."""
    data, noise = torch.randn(2, 5, dtype=torch.float64, generator=generator())
    t = torch.tensor(0.4, dtype=torch.float64)

    def native(time):
        sigma = schedule.level(time)
        return schedule.alpha(sigma) * (data + sigma * noise)

    _, slope = torch.autograd.functional.jvp(native, t, torch.ones_like(t))
    v = schedule.velocity(data, noise, schedule.level(t))
    ratio = slope / v
    assert (ratio - ratio[0]).abs().max() < 1e-8
    if schedule is FLOW:
        assert ratio[0] == pytest.approx(1)


@pytest.mark.parametrize(
    "schedule, prediction, times",
    [
        (DDPM, "noise", timesteps),
        (COSINE, "velocity", uniform_times),
        (FLOW, "velocity", logit_normal_times),
    ],
)
def test_the_loss_of_a_network_that_knows_the_answer_is_zero(schedule, prediction, times):
    """For a single training image ε and v follow from (x_t, t) exactly."""
    image = torch.rand(1, 1, 4, 4, generator=generator())

    class Knowing(torch.nn.Module):
        classes = 1

        def forward(self, native, t, label):
            sigma = schedule.level(t.double())[:, None, None, None]
            noise = (native / schedule.alpha(sigma) - image) / sigma
            return noise if prediction == "noise" else schedule.velocity(image, noise, sigma)

    loss_of = partial(native_loss, schedule=schedule, prediction=prediction, times=times, label_dropout=0.5)
    labels = torch.zeros(64, dtype=torch.long)
    loss = loss_of(Knowing(), image.expand(64, -1, -1, -1), labels, generator())
    assert loss < 1e-6


def test_label_dropout():
    labels = torch.zeros(4000, dtype=torch.long)
    assert drop_labels(labels, 3, 1.0, generator()).eq(3).all()
    assert drop_labels(labels, 3, 0.0, generator()).eq(0).all()
    assert abs(drop_labels(labels, 3, 0.3, generator()).eq(3).float().mean() - 0.3) < 0.05


def test_autoencoder_normalises_its_latents_and_inverts_the_normalisation():
    model = Autoencoder(narrow=16, wide=16)
    images = torch.rand(8, 3, 32, 32, generator=generator()) * 2 - 1
    before = model.decoder(model.posterior(images)[0])
    model.normalise(images)
    z = model.encode(images)
    assert z.shape == (8, 4, 8, 8)
    assert z.mean((0, 2, 3)).abs().max() < 1e-5 and (z.std((0, 2, 3)) - 1).abs().max() < 1e-5
    assert (model.decode(z) - before).abs().max() < 1e-4


def test_autoencoder_loss_falls_by_gradient_descent():
    model = Autoencoder(narrow=16, wide=16)
    images, labels = torch.rand(4, 3, 32, 32, generator=generator()) * 2 - 1, torch.zeros(4).long()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(12):
        losses.append(autoencoder_loss(model, images, labels, generator()))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.9 * losses[0]


def test_accuracy_counts_right_answers():
    class Brightness(Classifier):
        def forward(self, x):
            return torch.stack([-x.mean((1, 2, 3)), x.mean((1, 2, 3))], dim=1)

    x = torch.tensor([-1.0, 1.0, 1.0, -1.0])[:, None, None, None].expand(-1, 1, 8, 8)
    assert accuracy(Brightness(1, 2), x, torch.tensor([0, 1, 1, 1]), batch=3) == 0.75


def test_every_recipe_builds_the_same_network_twice():
    assert list(RECIPES) == list(NETWORKS)
    for name in RECIPES:
        a, b = new_network(name).state_dict(), new_network(name).state_dict()
        assert all(torch.equal(a[key], b[key]) for key in a)
