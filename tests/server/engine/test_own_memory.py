"""A session's weights lie in one piece that is nobody else's, and are what they were."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from kshot_server.engine.executors.held import held
from kshot_server.engine.executors.own_memory import own_numbers


def mapped_addresses() -> list[tuple[int, int]]:
    lines = Path("/proc/self/maps").read_text().splitlines()
    # Anonymous mappings have no name behind the inode; the heap is "[heap]".
    bounds = [line.split()[0].split("-") for line in lines if len(line.split()) == 5]
    return [(int(first, 16), int(last, 16)) for first, last in bounds]


@pytest.mark.parametrize("width", [3, 70])
def test_a_copy_has_the_values_shapes_and_formats_in_one_piece(width: int) -> None:
    task = {
        "weights.conv": torch.randn(width, width, 3, 3).contiguous(memory_format=torch.channels_last),
        "weights.head": torch.randn(width).expand(5, width),
        "moments.mean": torch.randn(2 * width)[::2],
        "present": torch.ones(5, dtype=torch.float64),
    }
    copy, memory = held(task)
    assert copy.keys() == task.keys()
    for name, values in task.items():
        assert torch.equal(copy[name], values)
        assert copy[name].dtype == values.dtype
        assert copy[name].data_ptr() % 8 == 0
        assert copy[name].untyped_storage().data_ptr() == memory.untyped_storage().data_ptr()
    assert copy["weights.conv"].is_contiguous(memory_format=torch.channels_last)
    assert sum(values.nbytes for values in copy.values()) <= memory.nbytes
    copy["present"][0] = 7
    assert task["present"][0] == 1


def weights() -> Tensor:
    return torch.randn(64, 64, 3, 3)


def test_large_weights_have_pages_of_their_own() -> None:
    copy, memory = held({"weight": weights()})
    start = copy["weight"].data_ptr()
    assert start % 4096 == 0
    assert any(first <= start and start + memory.nbytes <= last for first, last in mapped_addresses())
    view = copy.pop("weight")[0]
    assert view.isfinite().all()  # the last view keeps the pages


def test_between_tensors_there_are_zeros_whatever_was_there_before() -> None:
    for value in (torch.nan, 1.0):
        copy, memory = held({"weight": torch.full((100, 333), value), "bias": torch.full((3,), value)})
        assert memory.view(torch.float32).isfinite().all().item() == (value == 1.0)
        start = copy["weight"].data_ptr()
        del copy, memory
    assert held({"weight": torch.ones(100, 333), "bias": torch.ones(3)})[0]["weight"].data_ptr() == start


def test_a_place_is_used_again_only_when_the_last_view_has_gone() -> None:
    first, _ = held({"weight": weights()})
    view = first.pop("weight")[1:3]
    kept = view.clone()
    others = [held({"weight": weights()})[0]["weight"] for _ in range(100)]
    starts = [other.data_ptr() for other in others]
    assert len({*starts, view.data_ptr() - view[0].nbytes}) == 101
    assert torch.equal(view, kept)
    del others
    again = [held({"weight": weights()})[0]["weight"].data_ptr() for _ in range(2)]
    assert again[0] == again[1]  # each was gone before the next came
    assert again[0] in starts


def test_slabs_go_back_to_the_system() -> None:
    def mapped() -> int:
        gc.collect()
        return sum(last - first for first, last in mapped_addresses())

    before = mapped()
    many = [held({"weight": torch.zeros(111, 999)}) for _ in range(100)]
    assert mapped() - before > 100 * 111 * 999 * 4
    del many
    assert mapped() - before < 3 * (1 << 22)


def test_threads_never_have_the_same_place() -> None:
    def some(seed: int) -> None:
        for number in range(200):
            value = float(1000 * seed + number)
            copy, _ = held({"weight": torch.full((77, 300), value)})
            assert (copy["weight"] == value).all()

    with ThreadPoolExecutor(4) as threads:
        for done in [threads.submit(some, seed) for seed in range(4)]:
            done.result()


@pytest.mark.parametrize("count", [3, 70_000])
def test_numbers_may_be_written_and_many_begin_a_page(count: int) -> None:
    numbers = own_numbers(count)
    assert numbers.shape == (count,)
    assert numbers.dtype == np.float32
    assert count < 1 << 14 or numbers.ctypes.data % 4096 == 0
    numbers[:] = 1
    assert numbers.sum() == count
