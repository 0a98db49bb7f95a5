"""Stages that lie on a line, or that do not move at all: their plane, its plot, and the report."""

import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import tiny_image_model

from know_hf import Trajectory
from know_hf.report.plots import plot_plane
from know_hf.report.run import change_rows, report_markdown
from know_hf.trajectory.plane import principal_plane


def stages_at(tmp_path, *places: float):
    """A trajectory of stages that lie on a line, and a checkpoint beside it."""
    line, beside = tiny_image_model(0), tiny_image_model(1)
    start = [parameter.detach().clone() for parameter in line.parameters()]
    for place in places:
        for parameter, origin in zip(line.parameters(), start, strict=True):
            parameter.data = origin * (1 + place)
        line.save_pretrained(tmp_path / str(len(list(tmp_path.iterdir()))))
    folders = sorted(tmp_path.iterdir())
    beside.save_pretrained(tmp_path / "beside")
    return Trajectory.from_checkpoints(folders, model=line), {"x2": tmp_path / "beside"}


@pytest.mark.parametrize("places", [(0, 1), (0, 0.5, 1), (0, 1, 1)])
def test_a_line_has_no_second_axis(tmp_path, places):
    plane = principal_plane(*stages_at(tmp_path, *places))
    assert np.ptp(plane.coordinates[: len(places), 0]) == pytest.approx(plane.distances[0, -2])
    assert not plane.coordinates[:, 1].any() and not plane.directions[1].any()
    assert plane.explained == (pytest.approx(1), 0)
    assert np.abs(plane.directions).max() < 1e3 and plane.mixture(0.0, 9.0) == pytest.approx(
        [1 / len(places)] * len(places)
    )
    assert plot_plane(tmp_path / "plane.png", plane)


def test_stages_that_are_equal_lie_in_one_place(tmp_path):
    trajectory, beside = stages_at(tmp_path, 0.1, 0.1, 0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        plane = principal_plane(trajectory, beside)
        assert plot_plane(tmp_path / "plane.png", plane)
    assert not plane.coordinates.any() and not plane.directions.any() and plane.explained == (0, 0)
    assert plane.distances[0, 3] > 0 and not plane.distances[:3, :3].any()
    assert plane.mixture(1.0, 1.0) == pytest.approx([1 / 3] * 3)


def test_a_report_leaves_out_tables_of_nothing():
    stages = [SimpleNamespace(index=i, examples=8, metrics={}) for i in range(2)]
    check = {"ratios": {}, "scores": {}}
    still = SimpleNamespace(
        trajectory=SimpleNamespace(record=SimpleNamespace(stages=stages, recipe={})), metrics={}, statistics={"x2": {}},
        unmoved={}, self_check=check, verdict="Nothing.", choice=None,
    )  # fmt: skip
    text = report_markdown(still)
    assert "What changed" not in text and "Self-check" not in text and "## Verdict" in text
    assert change_rows({"x2": {}}) == []
    still.unmoved = {"equal in all stages": 3}
    assert "## What changed\n\n3 tensors that could have been predicted were equal" in report_markdown(still)
