from __future__ import annotations

import pytest
import torch

from graft.train.evaluation import Evaluation, gather


def test_parts_are_joined_in_the_order_of_the_data_set() -> None:
    parts = [
        Evaluation(
            torch.tensor(index), torch.tensor(index) % 2, torch.tensor(index).float()[:, None].repeat(1, 2)
        )
        for index in ([7, 3], [1, 9])
    ]
    others = {torch.int64: torch.tensor([4, 0]), torch.float32: torch.tensor([[4.0, 4.0], [0.0, 0.0]])}
    joined = gather(parts, lambda mine: [mine, others[mine.dtype]])
    assert joined.index.tolist() == [0, 1, 3, 4, 7, 9]
    assert joined.outputs[:, 0].tolist() == [0, 1, 3, 4, 7, 9]


def test_an_image_that_is_counted_twice_is_a_defect() -> None:
    part = Evaluation(torch.tensor([1, 2]), torch.tensor([0, 0]), torch.zeros(2, 2))
    with pytest.raises(RuntimeError, match="evaluated twice"):
        gather([part], lambda mine: [mine, mine])
