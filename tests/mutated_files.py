"""Mutations of files: of bytes, of JSON, of safetensors, of arrays, of a folder; each says what it did."""

import io
import json
import pickle
from collections.abc import Callable, Iterator
from functools import partial
from math import inf, nan
from random import Random
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, save

Files = dict[str, bytes | None]
"""What lies in a folder, by name; None for a folder that stands in place of a file."""

DEEP = "nested deep"
ODD = [
    None,
    [],
    {},
    True,
    "",
    "\ud800",
    nan,
    inf,
    -1,
    -(10**9),
    0,
    0.5,
    10**400,
    "x" * 300,
    [[1]],
    {"a": None},
    DEEP,
]
"""Values of other kinds than what stood there; the last becomes 100,000 lists in each other."""
OTHER_KINDS = [
    b"",
    b"\n",
    b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR",
    b"PK\x05\x06" + bytes(18),
    pickle.dumps({"a": 1}),
    save({"a": torch.zeros(1)}),
    np.zeros(2).tobytes(),
    b"[]",
    b"{}",
    b"null",
    b"NaN",
    b"[" * 100_000,
    '{"a": "ä"}'.encode("utf-16"),
    b'\xef\xbb\xbf{"a": 1}',
    b'{"a": "\xff"}',
]
"""Contents of files of other kinds."""


# ---------------------------------------------------------------- bytes


def byte_mutated(random: Random, data: bytes) -> tuple[bytes, str]:
    """A piece flipped, cut off, put in, doubled, zeroed or taken out; or a file of another kind."""
    at = random.randrange(len(data) + 1)
    end = min(len(data), at + random.choice([1, 8, 64, 512, 4096]))
    piece = data[at:end]
    noise = random.randbytes(len(piece) or 1)
    ways = {
        f"bit flipped: of byte {at}": bytes(b ^ 1 << random.randrange(8) for b in piece[:1]) + piece[1:],
        f"bytes overwritten: {at} to {end}": noise,
        f"bytes put in: at {at}": noise + piece,
        f"bytes doubled: {at} to {end}": 2 * piece,
        f"bytes zeroed: {at} to {end}": bytes(len(piece)),
        f"bytes taken out: {at} to {end}": b"",
    }
    told = random.choice([*ways, f"truncated: to {at} bytes", "another kind: "])
    if told in ways:
        return data[:at] + ways[told] + data[end:], told
    if told == "another kind: ":
        other = random.choice(OTHER_KINDS)
        return other, f"{told}{other[:20]!r}"
    return data[:at], told


# ---------------------------------------------------------------- JSON


def places(value: Any, where: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(path, container, key) of everything within a JSON value."""
    items = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, inner in items:
        path = f"{where}[{key!r}]"
        yield path, value, key
        yield from places(inner, path)


def json_mutated(random: Random, text: str | bytes) -> tuple[str, str]:
    """One field removed, renamed, of another kind, exchanged with another's value, or another number."""
    whole = [json.loads(text)]
    spots = list(places(whole))
    where, box, key = random.choice(spots)
    old, name = box[key], where.removeprefix("[0]") or "the whole"
    way = random.choice(["removed", "renamed", "odd", "odd", "exchanged", "nudged"])
    if way == "removed" and box is not whole:
        del box[key]
        told = f"field removed: {name}"
    elif way == "renamed" and isinstance(box, dict):
        box[f"{key}x"] = box.pop(key)
        told = f"field renamed: {name}"
    elif way == "nudged" and isinstance(old, int | float) and not isinstance(old, bool):
        box[key] = random.choice([old + 1, -old, 2 * old, old * (1 + 1e-6), old * (1 + 1e-3), str(old)])
        told = f"number changed: {name} = {box[key]!r}"
    elif way == "exchanged":
        path, _, _ = other = random.choice(spots)
        box[key] = json.loads(json.dumps(other[1][other[2]]))
        told = f"field exchanged: {name} = that of {path.removeprefix('[0]') or 'the whole'}"
    else:
        box[key] = random.choice(ODD)
        told = f"field of another kind: {name} = {box[key]!r:.30}"
    deep = "[" * 100_000 + "]" * 100_000
    return json.dumps(whole[0]).replace(json.dumps(DEEP), deep), told


# ---------------------------------------------------------------- tensors and arrays


def array_mutated(random: Random, arrays: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], str]:
    """One array removed, renamed, exchanged, of another kind or shape, or with another number."""
    arrays = dict(arrays)
    name, other = (random.choice(sorted(arrays)) for _ in range(2))
    old = arrays[name]
    at = tuple(random.randrange(n) for n in old.shape) if old.size else ()
    number = old[at].item() if old.size else 0
    changed = (
        {
            f"array of another kind: {name}, {kind}": old.astype(kind)
            for kind in ("float32", "float16", "int64", "uint8", "bool")
        }
        | {
            f"array of another kind: {name}, the bytes of {kind}": old.view(kind)
            for kind in ("int64", "float64", "float32")
            if old.ndim and old.shape[-1] and old.dtype.itemsize % np.dtype(kind).itemsize == 0
        }
        | {
            f"array of another shape: {name}, {shape.shape}": shape
            for shape in (old[None], old.flatten(), old.T, *([old[:-1], old[..., :0]] if old.ndim else []))
        }
    )
    news = {-number, number + 1, 0, number * (1 + 1e-6)}
    for new in news | ({nan, inf, 1e300} if old.dtype.kind == "f" else set()):
        copy = old.copy()
        with np.errstate(all="ignore"):
            copy[at] = np.array(new).astype(old.dtype)
        changed[f"number changed: {name}{list(at)} = {new!r}"] = copy
    told = random.choice(
        [*changed, "array removed: ", "array renamed: ", "array added: ", "arrays exchanged: "]
    )
    if told in changed:
        arrays[name] = changed[told]
        return arrays, told
    if told == "array removed: ":
        del arrays[name]
    elif told == "array renamed: ":
        arrays[f"{name}x"] = arrays.pop(name)
    elif told == "array added: ":
        arrays["more"] = old
    else:
        arrays[name], arrays[other] = arrays[other], arrays[name]
    return arrays, told + (f"{name}, {other}" if "exchanged" in told else name)


def safetensors_mutated(random: Random, data: bytes) -> tuple[bytes, str]:
    """The header's JSON mutated as it stands, or a record in its metadata, or the tensors themselves."""
    size = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + size]), data[8 + size :]
    records = header.get("__metadata__", {})
    way = random.choice(["header", "tensors", "record"] if records else ["header", "tensors"])
    if way == "tensors":
        arrays = {name: tensor.numpy() for name, tensor in load(data).items()}
        arrays, told = array_mutated(random, arrays)
        tensors = {name: torch.from_numpy(a.copy(order="C")) for name, a in arrays.items()}
        return save(tensors, records), told
    if way == "header":
        text, told = json_mutated(random, json.dumps(header))
        told = f"header, {told}"
    else:
        name = random.choice(sorted(records))
        try:
            records[name], told = json_mutated(random, records[name])
        except json.JSONDecodeError:  # plain text
            records[name], told = random.choice(["", "x", "\ud800", records[name] * 2]), "another text: "
        text, told = json.dumps(header), f"metadata {name}, {told}"
    text = text.encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + body, told


def numpy_mutated(random: Random, data: bytes, many: bool) -> tuple[bytes, str]:
    """An array of an .npz, or that of an .npy, mutated; or pickled."""
    read, buffer = np.load(io.BytesIO(data)), io.BytesIO()
    arrays, told = array_mutated(random, dict(read) if many else {"it": read})
    if random.random() < 0.1:
        arrays, told = {name: a.astype(object) for name, a in arrays.items()}, "pickled: all"
    np.savez(buffer, **arrays) if many else np.save(buffer, arrays.get("it", np.zeros(0)))
    return buffer.getvalue(), told


# ---------------------------------------------------------------- a folder

WAYS: dict[str, Callable[[Random, bytes], tuple[bytes | str, str]]] = {
    "json": json_mutated,
    "ipynb": json_mutated,
    "safetensors": safetensors_mutated,
    "npz": partial(numpy_mutated, many=True),
    "npy": partial(numpy_mutated, many=False),
}
"""How what is within a file is mutated, by its ending."""


def beside(files: Files, name: str) -> list[str]:
    """A file and those of the same name with other endings, as a shard and its record."""
    return sorted(other for other in files if other.rpartition(".")[0] == name.rpartition(".")[0])


def mutated(random: Random, files: Files, names: list[str], foreign: Files) -> tuple[Files, str]:
    """A folder with one thing changed, in one of the ``names``; and what that is.

    foreign: files of the same names from another folder.
    """
    files, name = dict(files), random.choice(names)
    data, together = files[name], random.random() < 0.6
    assert data is not None
    way = random.choice([*["structure"] * 6, *["bytes"] * 4, "folder", "gone", "exchanged", "foreign"])
    if way == "structure":
        new, told = WAYS[name.rpartition(".")[2]](random, data)
        files[name] = new.encode() if isinstance(new, str) else new
    elif way == "folder":
        files[name], told = None, "a folder: in its place"
    elif way == "gone":
        del files[name]
        told = "gone: the file"
    elif way == "exchanged" and len(names) > 1:
        other = random.choice([n for n in names if n != name])
        both = (beside(files, name), beside(files, other)) if together else ([name], [other])
        told = f"files exchanged: {' and '.join(both[0])} with {' and '.join(both[1])}"
        for one, two in zip(*both, strict=False):
            files[one], files[two] = files[two], files[one]
    elif way == "foreign" and foreign:
        taken = beside(foreign, name) if together else [name]
        files |= {taken_too: foreign[taken_too] for taken_too in taken}
        told = f"foreign: {' and '.join(taken)} of another folder"
    else:
        files[name], told = byte_mutated(random, data)
    return files, f"{told} ({name})"
