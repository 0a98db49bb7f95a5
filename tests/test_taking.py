"""Rows that are taken of a data set."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch.utils.data import TensorDataset

from know_hf.training.taking import take


def test_rows_are_those_of_select():
    data = Dataset.from_dict({"text": list("abcdef"), "label": range(6)}).with_transform(lambda rows: rows)
    for rows in ([4, 1, 1], range(2, 5), np.array([5]), []):
        found, expected = take(data, rows), data.select(rows)
        assert isinstance(found, Dataset) and found[:] == expected[:] and found.column_names == data.column_names
    with pytest.raises(IndexError):
        take(data, [6])


def test_a_name_for_every_choice_of_rows():
    data = Dataset.from_dict({"label": range(6)})
    names = [take(one, rows)._fingerprint for one in (data, data.rename_column("label", "other"))
             for rows in ([0, 1], [1, 0], [0, 1, 2])]  # fmt: skip
    assert len(set(names)) == 6 and take(data, [0, 1])._fingerprint == names[0]
    mapped = take(data, [3, 4]).map(lambda row: {"twice": 2 * row["label"]})
    assert mapped["twice"][:] == [6, 8]


def test_other_data_sets(tmp_path):
    found = take(TensorDataset(torch.arange(4)), np.array([3, 0]))
    assert [int(row[0]) for row in found] == [3, 0]
