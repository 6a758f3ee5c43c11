"""Embeddings by name: in which space end points are compared, ‖e(x) − e(y)‖².

own          the model's own embedding; LPIPS of images where it has none, else the data themselves
lpips        LPIPS (Zhang et al. 2018) of the pictures
pixels       decoded data; the mean squared error
states       end states as they are, latents too; the mean squared error
classifier   what a classifier sees before its last layer, which tells whether the content is right
             where pixels tell whether it is in place
"""

from typing import Literal, Protocol, runtime_checkable

from torch import Tensor

from s4s_nb.distances import Embedding, lpips_distance
from s4s_nb.errors import InputError, choose

EmbeddingName = Literal["own", "lpips", "pixels", "states", "classifier"]
"""The names of embeddings, as type checkers and the command line know them."""


@runtime_checkable
class Seen(Protocol):
    """What embeddings need of a model; :class:`s4s_nb.models.Model` is one."""

    @property
    def device(self) -> str: ...
    @property
    def side(self) -> int: ...
    @property
    def has_images(self) -> bool: ...
    @property
    def features(self) -> Embedding | None: ...
    def embed(self, states: Tensor) -> Tensor: ...
    def decode(self, states: Tensor) -> Tensor: ...
    def pictured(self, states: Tensor) -> Tensor: ...


def mean_square(x: Tensor) -> Tensor:
    """Vectors whose squared distance is the mean squared error of x."""
    return x.flatten(1) / x[0].numel() ** 0.5


def embedding_of(model: Seen, name: str = "own") -> Embedding:
    """States (b, …) of a model → vectors (b, p), by a name of the module's.

    Raises:
        InputError: an unknown name, LPIPS of what is no image, or classifier features of a model without.

    Example:
        >>> learn(load("fashion"), embed="classifier")
    """

    def by_lpips(states: Tensor) -> Tensor:
        return lpips_distance(model.device, model.side).embed(model.pictured(states))

    def by_features(states: Tensor) -> Tensor:
        assert model.features is not None
        return model.features(model.pictured(states))

    known: dict[str, Embedding] = {
        "own": model.embed,
        "lpips": by_lpips,
        "pixels": lambda states: mean_square(model.decode(states)),
        "states": mean_square,
        "classifier": by_features,
    }
    found = choose(known, name, "embedding")
    if name == "lpips" and not model.has_images:
        raise InputError("LPIPS is of images, and the end states of this model are none; take pixels.")
    if name == "classifier" and model.features is None:
        raise InputError(
            "This model has no classifier to see by: give it one as Model(…, features=), a function of its"
            " pictures, or take another embedding."
        )
    return found
