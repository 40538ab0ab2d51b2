"""How many workers, and what each may use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from graft.errors import GraftError
from graft.sweep.devices import Place, assign_places, count_cores, list_gpus, share_of_threads


@pytest.fixture
def configs(build_config: Callable[..., Any]) -> Callable[..., list[Any]]:
    return lambda **changes: [build_config({key.replace("__", "."): value for key, value in changes.items()})]


@pytest.mark.parametrize(
    ("changes", "gpus", "expected"),
    [
        ({}, [], [None]),
        ({}, ["0", "1", "2"], ["0", "1", "2"]),
        ({"sweep__workers": 2}, ["0", "1", "2"], ["0", "1"]),
        ({"trainer__devices": 2}, ["0", "1", "4", "5"], ["0,1", "4,5"]),
        ({"trainer__devices": 2}, ["0", "1", "4"], ["0,1"]),
        ({"sweep__workers": 3, "sweep__oversubscribe": True}, ["0", "1"], ["0", "1", "0"]),
        ({"sweep__workers": 2, "sweep__oversubscribe": True, "trainer__devices": 2}, ["7"], [None, None]),
    ],
)
def test_each_worker_has_its_gpus(changes, gpus, expected, configs) -> None:
    places, said = assign_places(configs(**changes), gpus)
    assert [place.gpus for place in places] == expected
    assert ("share" in said) == bool(changes.get("sweep__oversubscribe"))


def test_threads_are_shared(configs) -> None:
    cores = count_cores()
    places, _ = assign_places(configs(sweep__workers=cores), [])
    assert places == [Place(1)] * cores
    assert assign_places(configs(trainer__threads=7), [])[0] == [Place(7)]
    assert share_of_threads(10 * cores) == 1


@pytest.mark.parametrize(("gpus", "room"), [(["0", "1"], "2 GPUs, 1 for each run"), ([], "CPU cores")])
def test_more_workers_than_there_is_room_for_are_refused(gpus, room, configs) -> None:
    with pytest.raises(GraftError, match=r"`sweep\.workers` of at most") as caught:
        assign_places(configs(sweep__workers=count_cores() + 5), gpus)
    assert room in str(caught.value)
    assert "sweep.oversubscribe=true" in str(caught.value)


def test_runs_on_the_cpu_look_for_no_gpu(configs, monkeypatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert list_gpus(configs(trainer__accelerator="cpu")) == []
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert list_gpus(configs()) == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, 5")
    assert list_gpus(configs()) == ["3", "5"]
