"""Arithmetic on Params, named so that update rules read as in the papers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from kshot_models.serving import alone
from kshot_models.types import MetaParams, Params

__all__ = ["meta_map", "prefixed", "size_bytes", "tree_add", "tree_dot", "tree_map", "tree_scale", "under"]


def tree_map(function: Callable[..., Tensor], *trees: Params) -> Params:
    """Apply `function` to the leaves of one name in all `trees`; the first tree's names count."""
    return {name: function(*(tree[name] for tree in trees)) for name in trees[0]}


def tree_add(a: Params, b: Params) -> Params:
    """a + b."""
    if alone():  # in one call
        return dict(zip(a, torch._foreach_add(list(a.values()), [b[name] for name in a]), strict=True))  # noqa: SLF001 - as torch.optim does
    return tree_map(torch.add, a, b)


def tree_scale(tree: Params, factor: float) -> Params:
    """factor * tree."""
    if alone():
        return dict(zip(tree, torch._foreach_mul(list(tree.values()), factor), strict=True))  # noqa: SLF001
    return tree_map(lambda leaf: factor * leaf, tree)


def tree_dot(a: Params, b: Params) -> Tensor:
    """The inner product of two trees, a scalar; the same to the bit in whatever order their names come."""
    return torch.stack([(a[name] * b[name]).sum() for name in sorted(a)]).sum()


def meta_map(function: Callable[[Tensor], Tensor], meta: MetaParams) -> MetaParams:
    """Apply `function` to every leaf, e.g. `lambda t: t.to(device)`."""
    return MetaParams(*(tree_map(function, part) for part in meta))


def prefixed(prefix: str, tree: Params) -> Params:
    """The same leaves as `prefix + name`."""
    return {prefix + name: leaf for name, leaf in tree.items()}


def under(prefix: str, tree: Params) -> Params:
    """The leaves whose names begin with `prefix`, which is taken off."""
    return {name.removeprefix(prefix): leaf for name, leaf in tree.items() if name.startswith(prefix)}


def size_bytes(tree: Params) -> int:
    """Bytes that the leaves hold."""
    return sum(leaf.numel() * leaf.element_size() for leaf in tree.values())
