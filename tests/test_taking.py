"""Rows that are taken of a data set."""

import numpy as np
import pytest
import torch
from datasets import Dataset, fingerprint
from torch.utils.data import TensorDataset

from know_hf.training.taking import take


def test_rows_are_those_of_select():
    data = Dataset.from_dict({"text": list("abcdef"), "label": range(6)}).with_transform(lambda rows: rows)
    for rows in ([4, 1, 1], range(2, 5), np.array([5]), []):
        found, expected = take(data, rows), data.select(rows)
        assert isinstance(found, Dataset) and found[:] == expected[:] and found.column_names == data.column_names
    with pytest.raises(IndexError):
        take(data, [6])


@pytest.mark.parametrize("formatted", [
    lambda data: data, lambda data: data.with_format("torch", columns=["label"], output_all_columns=True),
    lambda data: data.with_format("numpy"), lambda data: data.with_transform(lambda rows: {"twice": rows["label"] * 2}),
])  # fmt: skip
def test_a_format_is_kept_and_the_data_set_is_as_it_was(formatted):
    data = formatted(Dataset.from_dict({"text": list("abcdef"), "label": range(6)}))
    before = (data.format, data._fingerprint, str(data[:]))
    found, expected = take(data, [4, 1]), data.select([4, 1])
    assert found.format == expected.format and str(found[:]) == str(expected[:])
    assert str(take(found, [1])[:]) == str(expected.select([1])[:])
    assert before == (data.format, data._fingerprint, str(data[:]))


def test_taking_rows_hashes_no_transform(monkeypatch):
    data = Dataset.from_dict({"label": range(6)}).with_transform(lambda rows: rows)
    monkeypatch.setattr(fingerprint.Hasher, "hash", lambda value: pytest.fail("something was hashed"))
    assert take(data, [3, 1])["label"][:] == [3, 1]


def test_a_name_for_every_choice_of_rows():
    data = Dataset.from_dict({"label": range(6)})
    names = [take(one, rows)._fingerprint for one in (data, data.rename_column("label", "other"))
             for rows in ([0, 1], [1, 0], [0, 1, 2])]  # fmt: skip
    assert len(set(names)) == 6 and take(data, [0, 1])._fingerprint == names[0]
    mapped = take(data, [3, 4]).map(lambda row: {"twice": 2 * row["label"]})
    assert mapped["twice"][:] == [6, 8]


def test_other_data_sets():
    found = take(TensorDataset(torch.arange(4)), np.array([3, 0]))
    assert [int(row[0]) for row in found] == [3, 0]
