"""Embeddings by name: each is what it says, has gradients, and what a model lacks is said."""

import pytest
import torch

from s4s_nb.distances import lpips_distance
from s4s_nb.errors import InputError
from s4s_nb.learn import learn
from s4s_nb.learn.embeddings import embedding_of
from s4s_nb.models import Model
from s4s_nb.models.bundled import load, load_network
from tests.problems import MIXTURE

MIXED = Model(MIXTURE, shape=(2,), sigma_max=10.0, sigma_min=0.01)


def states(model: Model, count: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(0.5 * torch.randn(count, *model.shape, generator=generator) for _ in range(2))


@pytest.mark.parametrize("name", ["fashion", "faces-latent"])
def test_each_is_the_distance_that_it_says(name):
    model = load(name, side=64)
    x, y = states(model)
    distances = {
        each: (embedding_of(model, each)(x) - embedding_of(model, each)(y)).square().sum(1)
        for each in ("own", "lpips", "pixels", "states", "classifier")
    }
    images = model.images(x), model.images(y)
    expected = {
        "lpips": lpips_distance("cpu", 64).net(*(i.expand(-1, 3, -1, -1) for i in big(images))).flatten(),
        "pixels": (images[0] - images[1]).square().flatten(1).mean(1),
        "states": (x - y).square().flatten(1).mean(1),
    }
    expected["own"] = expected["lpips"]
    for each, value in expected.items():
        assert torch.allclose(distances[each], value, rtol=1e-3), each
    classifier = load_network(f"{name.split('-')[0]}-classifier")
    seen = [classifier.features(i).mean((2, 3)) for i in images]
    assert torch.allclose(distances["classifier"], (seen[0] - seen[1]).square().sum(1), rtol=1e-4)
    assert torch.allclose(classifier.head(seen[0]), classifier(images[0]), rtol=1e-5)


def big(images):
    resize = torch.nn.functional.interpolate
    return [resize(i, size=(64, 64), mode="bilinear", align_corners=False) for i in images]


@pytest.mark.parametrize("name", ["lpips", "pixels", "states", "classifier"])
def test_each_can_be_learned_by(name):
    model = load("fashion", side=64)
    x = states(model)[0].requires_grad_()
    (slope,) = torch.autograd.grad(embedding_of(model, name)(x).square().sum(), x)
    assert torch.isfinite(slope).all() and (slope != 0).any(), name


def test_what_a_model_lacks_is_said():
    with pytest.raises(InputError, match="own, lpips, pixels, states, classifier"):
        embedding_of(MIXED, "vgg")
    with pytest.raises(InputError, match="LPIPS is of images"):
        learn(MIXED, embed="lpips", pairs=4)
    for asked in ({"embed": "classifier"}, {"set_weight": 0.1}):
        with pytest.raises(InputError, match="features="):
            learn(MIXED, pairs=4, **asked)


def test_learning_takes_an_embedding_and_features_of_its_own():
    own = Model(MIXTURE, shape=(2,), sigma_max=10.0, sigma_min=0.01, features=torch.tanh)
    how = {"start": "dpmpp-2m", "grid": "logsnr", "pairs": 20, "iterations": 2, "progress": False}
    by_features = learn(own, method="s4s", embed="classifier", set_weight=0.5, **how)
    assert by_features.record["embed"] == "classifier" and by_features.record["set_weight"] == 0.5
    assert by_features.record["kept"] == "learned"
    assert "embed" not in learn(own, method="s4s", **how).record
