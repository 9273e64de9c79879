"""A session's weights lie in one piece that is nobody else's, and are what they were."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from kshot_server.engine.executors.own_memory import in_own_memory


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
    copy, size = in_own_memory(task)
    assert copy.keys() == task.keys()
    for name, values in task.items():
        assert torch.equal(copy[name], values)
        assert copy[name].dtype == values.dtype
        assert copy[name].data_ptr() % 8 == 0
        assert copy[name].untyped_storage().nbytes() == size
    assert len({values.untyped_storage().data_ptr() for values in copy.values()}) == 1
    assert copy["weights.conv"].is_contiguous(memory_format=torch.channels_last)
    assert sum(values.nbytes for values in copy.values()) <= size
    copy["present"][0] = 7
    assert task["present"][0] == 1


def test_large_weights_have_pages_of_their_own() -> None:
    copy, size = in_own_memory({"weight": torch.randn(64, 64, 3, 3)})
    start = copy["weight"].data_ptr()
    assert start % 4096 == 0
    assert any(first <= start and start + size <= last for first, last in mapped_addresses())
    view = copy.pop("weight")[0]
    assert view.isfinite().all()  # the last view keeps the pages
