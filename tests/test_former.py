"""What version 0.1.0 left on disk before its house was rebuilt: still read, still continued, still the same.

``former.tar.xz`` holds a model, data, a run by four methods, a comparison, a recipe and its experiment, each as the
command line of then wrote it, without pages, plots and prepared data, which are made again; and the predictors that
came with the package then, for what is predicted again by another predictor is another result, and is refused.
"""

import tarfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from know_hf.cli.main import main
from know_hf.known.plain import PlainPredictor

#: Defaults that depend on the machine and on the version of torch.
SINCE = ("--dataloader_pin_memory", "False", "--optim", "adamw_torch_fused")
METHODS = ("known", "mean", "shrink")


@pytest.fixture
def former(tmp_path, monkeypatch) -> Path:
    with tarfile.open(Path(__file__).with_name("former.tar.xz")) as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)

    def default(history_length: int = 5) -> PlainPredictor:
        return PlainPredictor.read(tmp_path / "weights" / f"stages-{history_length}")

    monkeypatch.setattr(PlainPredictor, "default", default)
    return tmp_path


def state(folder: Path, *kinds: str) -> dict[str, tuple[int, bytes]]:
    """When each file of these kinds was written, and what is in it."""
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name.endswith(kinds) and "cache" not in path.parts
    }


def test_a_run_is_continued_by_its_own_recipe(former):
    before = state(former / "run", ".safetensors", "enrichment.json", "trajectory.json")
    main(["enrich", "--config", "run/run.yaml", *SINCE])
    assert state(former / "run", ".safetensors", "enrichment.json", "trajectory.json") == before


def test_a_run_is_predicted_from_alike(former):
    main(["predict", "run", "--output_dir", "again", "--steps", "2", "--method", *METHODS])
    then = state(former / "comparison" / "arms", "model.safetensors")
    again = state(former / "again", "model.safetensors")
    shared = [name for name in then if name in again]
    assert shared == ["known/x2/model.safetensors", "known/x4/model.safetensors", "mean/x2/model.safetensors",
                      "shrink/x2/model.safetensors", "shrink/x4/model.safetensors"]  # fmt: skip
    for name in shared:  # sums come out a unit in the last place apart in another order, or on other processors
        before, after = (load_file(former / folder / name) for folder in ("comparison/arms", "again"))
        for tensor, values in before.items():
            torch.testing.assert_close(after[tensor], values, rtol=1e-6, atol=1e-7)


def test_a_finished_comparison_is_not_run_again(former):
    before = state(former / "comparison" / "runs", ".json")
    assert before
    main(
        "transfer --trajectory run --method known shrink mean --steps 2 --dataset data --output_dir comparison "
        "--head_epochs 1 --epochs 1 --batch_size 32 --seeds 2 --learning_rates 1e-3 5e-3 "
        "--validation_examples 30".split()
    )
    assert state(former / "comparison" / "runs", ".json") == before


def test_a_finished_experiment_is_not_run_again_and_reports_the_same(former):
    def table() -> list[list[str]]:
        lines = (former / "experiment" / "report" / "results.md").read_text().splitlines()
        rows = [line.replace("own lr", "lr") for line in lines if "|" in line and " s " not in line]
        return [[cell.strip() for cell in row.split("|")] for row in rows if not row.startswith("|--")]

    kinds = (".safetensors", "--0.json", "--1.json")  # weights and fine-tunings
    before, then = state(former / "experiment", *kinds), table()
    main(["transfer", "recipe.yaml", "--output_dir", "experiment"])
    assert state(former / "experiment", *kinds) == before
    assert table() == then


def test_what_another_predictor_made_is_kept(former, monkeypatch, capsys):
    """The package's own predictor has changed since: said before anything is written."""
    monkeypatch.undo()
    monkeypatch.chdir(former)
    kinds = (".safetensors", ".json", ".yaml", ".md")
    before = state(former, *kinds)
    with pytest.raises(SystemExit):
        main(["enrich", "--config", "run/run.yaml", *SINCE])
    assert "made by another version's predictor" in capsys.readouterr().err
    assert state(former, *kinds) == before
