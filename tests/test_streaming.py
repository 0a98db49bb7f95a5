"""Shares of processes, and reading ahead and writing behind."""

from collections import Counter
from functools import partial
from itertools import pairwise

import pytest
import torch

from know_hf import enrich
from know_hf.enrichment import shares
from know_hf.enrichment.pipeline import overlapped, side_by_side
from know_hf.enrichment.ranges import share_of
from know_hf.trajectory import Checkpoint, resolve_kinds


@pytest.mark.parametrize("processes", [1, 2, 3, 50])
@pytest.mark.parametrize("block", [10_000, 1, None])
def test_processes_share_values_evenly_and_read_each_once(trajectory, processes, block):
    predicted = resolve_kinds(trajectory.parameters)[0]
    shares = [share_of(trajectory.tensors, predicted, p, processes, block) for p in range(processes)]
    ranges = [part for share in shares for part in share]
    assert block is None or max(part.size for part in ranges) <= block
    for name in predicted:
        covered = sorted((part.start, part.stop) for part in ranges if part.tensor == name)
        assert covered[0][0] == 0 and covered[-1][1] == trajectory.tensors[name].numel
        assert all(before[1] == after[0] for before, after in pairwise(covered))
    for share in shares:
        specs = [trajectory.tensors[part.tensor] for part in share]
        places = [spec.offset + part.start for spec, part in zip(specs, share, strict=True)]
        assert places == sorted(places)
    if block:
        sizes = [sum(part.size for part in share) for share in shares]
        assert max(sizes) - min(sizes) <= 2 * 2048


def test_every_byte_is_read_once(trajectory, tmp_path, monkeypatch):
    read, seen = Checkpoint.read, Counter()

    def note(self, name, start=0, stop=None, into=None):
        values = read(self, name, start, stop, into)
        seen.update((self.folder, name, i) for i in range(start, start + values.numel()))
        return values

    monkeypatch.setattr(Checkpoint, "read", note)
    monkeypatch.setattr(shares, "BLOCK", 1000)
    enrich(trajectory, tmp_path, steps=3)
    predicted = resolve_kinds(trajectory.parameters)[0]
    values = sum(trajectory.tensors[name].numel for name in predicted)
    twice = [value for value, times in seen.items() if times > 1]
    assert not twice[:3]
    assert sum(name in predicted for _, name, _ in seen) == values * len(trajectory)
    # Of what is copied, stage 0 alone is looked at: NaN there would go into every result.
    assert {folder.name for folder, name, _ in seen if name not in predicted} == {"stage-0"}


@pytest.mark.parametrize("way", [overlapped, partial(side_by_side, most=3)], ids=["behind", "beside"])
@pytest.mark.parametrize("fails", ["read", "compute", "write"])
def test_a_failing_stage_ends_the_pipeline(fails, way):
    begun = []

    def stage(name):
        def work(item, *given):
            if name == "read":
                begun.append(item)
            if name == fails and item == 3:
                raise OSError(f"{name} {item}")
            return item * 10 if name == "read" else (name, *given)

        return work

    stages = [stage(name) for name in ("read", "compute", "write")]
    threads, yielded = torch.get_num_threads(), []
    with pytest.raises(OSError, match=f"{fails} 3"):
        yielded.extend(way(range(100), *stages))
    assert max(begun) < 100 - 1 and torch.get_num_threads() == threads
    whole = [(item, ("write", ("compute", item * 10))) for item in range(3)]
    assert list(way(range(3), *stages)) == whole and list(way(range(0), *stages)) == []


@pytest.mark.parametrize("method", ["mean", "linear_fit", "exp_fit", "task_vector", "tsv", "shrink", "shrink_perturb"])
def test_results_do_not_depend_on_threads_and_blocks(trajectory, tmp_path, monkeypatch, method):
    made = {}
    for threads, block in ((1, 1 << 19), (2, 700), (3, 1001)):
        monkeypatch.setattr(shares, "_PIECE", block)
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            folder = tmp_path / str(threads)
            result = enrich(trajectory, folder, steps=2, method=method)
        finally:
            torch.set_num_threads(before)
        made[threads] = (folder / "x4" / "model.safetensors").read_bytes(), result.statistics
    assert made[1][0] == made[2][0] == made[3][0]
    for threads in (2, 3):
        for kind, told in made[1][1]["x4"].items():
            assert made[threads][1]["x4"][kind] == pytest.approx(told, rel=1e-5)
