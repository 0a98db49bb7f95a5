"""What is set aside of the training data before anything is trained."""

import numpy as np
import pytest
from datasets import Dataset

from know_hf.training.set_aside import FEWEST, FOLDS, LEAST, Fold, take_aside

pytestmark = pytest.mark.usefixtures("with_turns")


def values(dataset: Dataset) -> list[int]:
    return dataset["a"][:]


def numbers(count: int) -> Dataset:
    return Dataset.from_dict({"a": list(range(count)), "label": [i % 4 == 0 for i in range(count)]})


@pytest.mark.parametrize(("count", "size"), [(5000, 500), (1000, 100), (400, 100), (300, 100)])
def test_a_tenth_is_set_aside_or_a_hundred(count, size):
    data = numbers(count)
    rest, aside = take_aside(data, "auto", 0, data["label"][:])
    assert aside.how == "set aside" and len(aside.dataset) == size
    assert sorted(values(rest) + values(aside.dataset)) == list(range(count))
    assert abs(np.mean(aside.dataset["label"][:]) - 0.25) < 0.02
    assert values(take_aside(data, "auto", 0, data["label"][:])[1].dataset) == values(aside.dataset)
    assert values(take_aside(data, "auto", 1, data["label"][:])[1].dataset) != values(aside.dataset)


def test_fewer_are_left_out_by_turns():
    data = numbers(3 * LEAST - 1)
    whole, aside = take_aside(data, "auto", 0)
    assert aside.how == "folds" and aside.dataset is None and len(whole) == len(data)
    parts = [take_aside(data, Fold(i), 0, data["label"][:]) for i in range(FOLDS)]
    assert sorted(v for _, part in parts for v in values(part.dataset)) == list(range(len(data)))
    for rest, part in parts:
        assert not set(values(rest)) & set(values(part.dataset))
        assert abs(np.mean(part.dataset["label"][:]) - 0.25) < 0.02
    assert take_aside(numbers(FEWEST - 1), "auto", 0)[1].how == "too few"


def test_a_number_or_a_share_is_set_aside():
    for split, size in ((0.2, 20), (25, 25)):
        assert len(take_aside(numbers(100), split, 0)[1].dataset) == size
    for split in (0.01, 5, 90, 1000):
        with pytest.raises(ValueError, match="set another number"):
            take_aside(numbers(100), split, 0)


def test_what_we_choose_to_train_on_can_be_trained_on():
    rest, _ = take_aside(numbers(1000), "auto", 0, None, lambda size: size % 16 != 4)
    assert len(rest) == 899
    rest, _ = take_aside(numbers(200), Fold(0), 0, None, lambda size: size % 32 != 5)
    assert len(rest) == 132
