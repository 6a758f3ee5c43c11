"""Right and wrong answers to the exercises of notebook 05."""

import json
import math

import torch

from s4s_nb.distances import rmse
from s4s_nb.files import sha256


def order(log=math.log2, ratio=lambda d1, d2: d1 / d2, error=lambda d1, d2, p: d2 / (2**p - 1)):
    def answer(d1, d2):
        p = log(ratio(d1, d2))
        return p, error(d1, d2, p)

    return answer


def strong(share=0.1, result=lambda n: n, again=False, step=lambda n: 2 * n):
    """Doubling until d(N, 2N) < share · error."""

    def answer(ends, student_error, first):
        n, coarse = first, ends(first)
        while True:
            fine = ends(step(n))
            if rmse(coarse, fine).mean() < share * student_error:
                return result(n)
            n, coarse = step(n), ends(step(n)) if again else fine

    return answer


def endless(ends, student_error, first):
    while True:
        ends(first)


def nodes(scale=torch.log, pick=lambda d, s: d.argmin(0)):
    return lambda sigmas, levels: pick((scale(sigmas)[:, None] - scale(levels)).abs(), sigmas)


def above(sigmas, levels):
    return torch.stack([(sigmas >= level).sum() - 1 for level in levels])


def to_make(
    exists=lambda path: True,
    trusts_hash=False,
    shards=lambda count, shard: -(-count // shard),
    size=lambda count, shard, index: min(shard, count - index * shard),
    errors=(OSError, ValueError, KeyError),
):
    """Indices of the shards that are not whole; every argument is a place to go wrong."""

    def whole(path, wanted):
        if not exists(path):
            return False
        try:
            record = json.loads(path.with_suffix(".json").read_text())
            return (trusts_hash or record["sha256"] == sha256(path)) and record["pairs"] >= wanted
        except errors:
            return False

    def answer(folder, count, shard):
        paths = [folder / f"{k:05d}.safetensors" for k in range(shards(count, shard))]
        return [k for k, path in enumerate(paths) if not whole(path, size(count, shard, k))]

    return answer


def only_files(folder, count, shard):
    return [k for k in range(-(-count // shard)) if not (folder / f"{k:05d}.safetensors").exists()]


def only_records(folder, count, shard):
    names = [folder / f"{k:05d}" for k in range(-(-count // shard))]
    both = [all(n.with_suffix(e).exists() for e in (".safetensors", ".json")) for n in names]
    return [k for k, there in enumerate(both) if not there]


def complement(folder, count, shard):
    return [k for k in range(-(-count // shard)) if k not in to_make()(folder, count, shard)]


RIGHT = {
    "05-order": order(),
    "05-strong": strong(),
    "05-nodes": nodes(),
    "05-shards": to_make(),
}

WRONG = [
    ("05-order", lambda d1, d2: order()(d1, d2)[::-1], "wrong way round"),
    ("05-order", order(ratio=lambda d1, d2: d2 / d1), "order is negative"),
    ("05-order", lambda d1, d2: (math.log2(d2 / d1), d2 / (d1 / d2 - 1)), "the error is right"),
    ("05-order", order(log=math.log), "wrong as well"),
    ("05-order", lambda d1, d2: (math.log(d1 / d2), d2 / (d1 / d2 - 1)), "so take log₂"),
    ("05-order", order(error=lambda d1, d2, p: d2 / (1 - 2**-p)), "2N evaluations"),
    ("05-order", order(error=lambda d1, d2, p: d1 / (1 - 2**-p)), "with N evaluations"),
    ("05-order", order(error=lambda d1, d2, p: d2 / 2**p), "not by 2^p"),
    ("05-order", order(error=lambda d1, d2, p: d2), "coarser solver"),
    ("05-order", lambda d1, d2: (2.0, d2), "not yet"),
    ("05-order", lambda d1, d2: 2.0, "return two numbers"),
    ("05-strong", strong(result=lambda n: 2 * n), "finer of the two"),
    ("05-strong", strong(share=1), "a *tenth*"),
    ("05-strong", strong(share=0.01), "a hundredth"),
    ("05-strong", strong(result=lambda n: n // 2), "too early"),
    ("05-strong", strong(share=1 / 9), "it is 40, not 20"),
    ("05-strong", strong(share=1 / 11), "it is 20, not 40"),
    ("05-strong", strong(step=lambda n: 3 * n), "it is"),
    ("05-strong", lambda ends, error, first: strong()(ends, error, first + 0 * len(ends(3))), "each once"),
    ("05-strong", lambda ends, error, first: ends(0), "begin with `first`"),
    ("05-strong", strong(again=True), "keep the finer end points"),
    ("05-strong", strong(share=0), "goes on"),
    ("05-strong", endless, "goes on"),
    ("05-strong", strong(result=lambda n: None), "return statement"),
    ("05-strong", strong(result=lambda n: 11), "begun at 5, it is 40, not 11"),
    ("05-nodes", nodes(scale=lambda s: s), "nearest in σ is not"),
    ("05-nodes", nodes(pick=lambda d, s: s[d.argmin(0)]), "return their indices"),
    ("05-nodes", above, "*above*"),
    ("05-nodes", lambda s, levels: above(s, levels) + 1, "*below*"),
    ("05-nodes", nodes(pick=lambda d, s: d.argmax(0)), "farthest"),
    ("05-nodes", nodes(pick=lambda d, s: d.argmin(0).sort().values), "order given"),
    ("05-nodes", nodes(pick=lambda d, s: d.argmin(1)), "the other way round"),
    ("05-nodes", nodes(pick=lambda d, s: d.min()), "is one number"),
    ("05-nodes", nodes(pick=lambda d, s: d.argmin(0) * 0), "not yet"),
    ("05-nodes", lambda s, levels: None, "return statement"),
    ("05-shards", only_files, "every file that is there"),
    ("05-shards", only_records, "every file that has a record"),
    ("05-shards", to_make(trusts_hash=True, exists=lambda p: p.exists()), "one byte of shard 2"),
    ("05-shards", to_make(errors=(ValueError, KeyError)), "may be missing"),
    ("05-shards", to_make(errors=(OSError, KeyError)), "half-written"),
    ("05-shards", to_make(shards=lambda count, shard: count // shard), "last shard is forgotten"),
    ("05-shards", to_make(size=lambda count, shard, k: shard), "shorter than the others"),
    ("05-shards", to_make(size=lambda count, shard, k: 1), "number of pairs"),
    ("05-shards", complement, "you name every shard"),
    ("05-shards", to_make(exists=lambda p: False), "you name every shard"),
    ("05-shards", lambda *arguments: [3], "to be made are []"),
    ("05-shards", lambda *arguments: None, "return a list of indices, not None"),
]
