"""Shares of processes, and reading ahead and writing behind."""

from collections import Counter
from itertools import pairwise

import pytest
import torch

from know_hf import enrich
from know_hf.enrichment import shares
from know_hf.enrichment.pipeline import overlapped
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


@pytest.mark.parametrize("fails", ["read", "compute", "write"])
def test_a_failing_stage_ends_the_pipeline(fails):
    done = []

    def stage(name):
        def work(item, *given):
            if name == fails and item == 3:
                raise OSError(f"{name} {item}")
            if name == "write":
                done.append((item, given[0]))
            return item * 10

        return work

    threads = torch.get_num_threads()
    with pytest.raises(OSError, match=f"{fails} 3"):
        overlapped(range(8), stage("read"), stage("compute"), stage("write"))
    assert done == [(0, 0), (1, 10), (2, 20)] and torch.get_num_threads() == threads
    done.clear()
    overlapped(range(3), stage("read"), stage("compute"), stage("write"))
    assert done == [(0, 0), (1, 10), (2, 20)]
