"""The plane with noisy copies of the stages, and the landscape over it."""

import numpy as np
import pytest
import torch
from conftest import tiny_image_model

from know_hf import Trajectory
from know_hf.laboratory.landscape import Landscape, score_landscape
from know_hf.report.plots import plot_plane
from know_hf.tasks import get_task
from know_hf.training.examples import Examples
from know_hf.trajectory import Checkpoint
from know_hf.trajectory.noise import CHUNK, Noise, NoisyCheckpoint
from know_hf.trajectory.plane import plane_parameters, principal_plane, spanning_points

NOISE = Noise(scale=0.1, copies=4)


@pytest.fixture(scope="module")
def trajectory(tmp_path_factory) -> Trajectory:
    folder, model = tmp_path_factory.mktemp("stages"), tiny_image_model(0)
    for stage in range(3):
        model.save_pretrained(folder / str(stage))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.05 * torch.randn_like(parameter)
    return Trajectory.from_checkpoints([folder / str(i) for i in range(3)], model=model)


def test_noise_has_the_stated_size_and_is_the_same_again(trajectory):
    points, first = spanning_points(trajectory, NOISE), trajectory.checkpoints[0]
    assert len(points) == 3 + 3 * 4 and len(spanning_points(trajectory)) == 3
    name = max(plane_parameters(trajectory), key=lambda n: trajectory.tensors[n].numel)
    drawn = [point.read(name) - point.stage.read(name).double() for point in points[3:]]
    size = first.read(name).double().square().mean().sqrt()
    assert torch.stack(drawn).std().item() == pytest.approx(0.1 * size.item(), rel=0.05)
    assert len({values.sum().item() for values in drawn}) == 12
    assert torch.equal(spanning_points(trajectory, NOISE)[5].read(name), points[5].read(name))
    other = spanning_points(trajectory, Noise(scale=0.1, copies=4, seed=1))
    assert not torch.equal(other[5].read(name), points[5].read(name))


def test_noise_read_in_blocks_is_that_read_at_once(tmp_path):
    from safetensors.torch import save_file

    save_file({"w": torch.ones(2 * CHUNK + 5)}, tmp_path / "model.safetensors")
    stage = Checkpoint(tmp_path)
    copy = NoisyCheckpoint(stage, 0, NOISE, {}, stage)
    whole = copy.read("w")
    parts = [copy.read("w", start, start + CHUNK) for start in range(0, len(whole), CHUNK)]
    assert torch.equal(torch.cat(parts), whole)


def test_the_plane_is_that_of_stages_and_noisy_copies(trajectory):
    """Against principal components of all of them, and against the plane of the stages alone."""
    plane = principal_plane(trajectory, {"again": trajectory.checkpoints[1].folder}, NOISE)
    names, points = plane_parameters(trajectory), spanning_points(trajectory, NOISE)
    weights = torch.stack([torch.cat([point.read(name).double() for name in names]) for point in points])
    centred = weights - weights.mean(0)
    _, lengths, axes = torch.linalg.svd(centred, full_matrices=False)
    expected = (centred @ axes[:2].T).numpy()
    found = np.concatenate([plane.coordinates[:3], plane.noisy])
    np.testing.assert_allclose(np.abs(found), np.abs(expected), rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(plane.explained, (lengths**2 / (lengths**2).sum())[:2], rtol=1e-6)
    assert plane.names == ["stage-0", "stage-1", "stage-2", "again"] and plane.stages == 3
    np.testing.assert_allclose(plane.coordinates[3], plane.coordinates[1])
    assert plane.distances.shape == (4, 4) and plane.distances[1, 3] == 0
    alone = principal_plane(trajectory)
    assert alone.stages == 3 and not len(alone.noisy) and alone.explained[0] > plane.explained[0]


def test_noisy_copies_are_scored_as_they_are(trajectory, tmp_path):
    examples = Examples({"pixel_values": torch.randn(60, 1, 16, 16), "labels": torch.arange(60) % 3})
    plane, task, model = principal_plane(trajectory, noise=NOISE), get_task("image-classification"), tiny_image_model()
    found = score_landscape(trajectory, plane, model, examples, examples, task, resolution=3, noise=NOISE)
    assert found.scores.shape == (3, 3) and found.noisy.shape == (12,) and len(set(found.noisy)) > 1
    assert found.x[0] < plane.noisy[:, 0].min() and found.y[-1] > plane.noisy[:, 1].max()
    last = spanning_points(trajectory, NOISE)[-1]
    name = "timm_model.conv1.0.weight"
    torch.testing.assert_close(dict(model.named_parameters())[name].flatten().double(), last.read(name), rtol=1e-6,
                               atol=1e-7)  # fmt: skip
    found.save(tmp_path / "landscape.json")
    again = Landscape.load(tmp_path / "landscape.json")
    assert np.array_equal(again.noisy, found.noisy) and np.array_equal(again.scores, found.scores)
    assert plot_plane(tmp_path / "plane.png", plane, again, task.score)
