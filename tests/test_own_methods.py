"""Methods that live outside the package: in a user's module, or offered by an installed package."""

import importlib
import json

import pytest
import torch

from know_hf import enrich
from know_hf.checkpoints import Checkpoint
from know_hf.cli.main import main
from know_hf.enrichment.options import Prediction
from know_hf.enrichment.resolved import resolve
from know_hf.retrodiction import ALL, METHODS, PredictorFamily, check_method, get_method, method, retrodict
from know_hf.retrodiction.page import PAGE, with_table

OUTSIDE = '''
"""A module of someone else's."""

from __future__ import annotations

import torch

from know_hf.retrodiction import method


@method(same_every_step=False)
def half_back(stages, kind, steps=1, *, share: float = 0.5, only: str | None = None):
    """Goes a share of the last movement on, every step."""
    if only not in (None, kind):
        return stages[:1].expand(steps, *stages.shape[1:])
    return torch.stack([stages[0] + step * share * (stages[0] - stages[1]) for step in range(1, steps + 1)])
'''


@pytest.fixture(autouse=True)
def as_it_was():
    before = dict(METHODS)
    yield
    METHODS.clear()
    METHODS.update(before)


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """A folder on the path that holds such a module."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "someone_s_methods.py").write_text(OUTSIDE)
    monkeypatch.syspath_prepend(tmp_path / "site")
    yield tmp_path / "site"
    importlib.sys.modules.pop("someone_s_methods", None)


def offer(site, name: str, value: str) -> None:
    """What an installer writes of a package's entry points."""
    info = site / "someone-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: someone\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text(f"[know_hf.methods]\n{name} = {value}\n")
    importlib.invalidate_caches()


def test_a_method_of_one_s_own_is_streamed(trajectory, tmp_path, outside):
    importlib.import_module("someone_s_methods")
    result = enrich(trajectory, tmp_path / "out", method="half_back", parameters={"share": 0.25}, steps=2)
    name = "timm_model.fc.weight"
    zero, one = (trajectory.checkpoints[i].read(name) for i in range(2))
    for step, folder in enumerate(result.checkpoints.values(), start=1):
        assert torch.equal(Checkpoint(folder).read(name), zero + step * 0.25 * (zero - one))
    content = json.loads((folder / "enrichment.json").read_text())
    assert content["method"] == "half_back" and content["parameters"] == {"share": 0.25}
    assert content["code"]["function"] == "someone_s_methods.half_back" and len(content["code"]["sha256"]) == 64
    card = (folder / "README.md").read_text()
    assert "half_back x4" in card and "| method | half_back (`someone_s_methods.half_back`, not of know-hf) |" in card
    # Beside the package's own in one pass, and with a parameter of another type refused beforehand.
    both = enrich(trajectory, tmp_path / "both", method=["half_back", "known"], steps=1)
    assert "cosine_to_known" in both.statistics["half_back/x2"]["fc"] and "half_back" not in ALL
    with pytest.raises(ValueError, match="half_back: share must be a number, found 'much'"):
        enrich(trajectory, tmp_path / "out", method="half_back", parameters={"share": "much"})
    # Changed code is another result.
    METHODS.pop("half_back")
    changed = OUTSIDE.replace("every step", "step by step")
    (outside / "someone_s_methods.py").write_text(changed)
    importlib.reload(importlib.sys.modules["someone_s_methods"])
    with pytest.raises(FileExistsError, match="different code"):
        enrich(trajectory, tmp_path / "out", method="half_back", parameters={"share": 0.25}, steps=2)


def test_the_command_line_finds_what_an_installed_package_offers(trajectory, tmp_path, outside, capsys):
    offer(outside, "half_back", "someone_s_methods:half_back")
    assert "half_back" not in METHODS
    run = str(trajectory.root)
    main(["predict", run, "--output-dir", str(tmp_path / "o"), "--method", "half_back", "--steps", "1",
          "--parameters", "share=0.5"])  # fmt: skip
    assert "x2" in capsys.readouterr().out and get_method("half_back").parameters["share"].annotation is float
    assert (tmp_path / "o" / "x2" / "model.safetensors").exists()


def test_what_a_package_offers_has_to_be_there(outside):
    offer(outside, "elsewhere", "someone_s_methods")
    with pytest.raises(ValueError, match="'elsewhere', which the package someone offers .* is not registered there"):
        get_method("elsewhere")
    with pytest.raises(ValueError, match="known methods: known, .*, elsewhere\\."):
        get_method("nothing")


def test_a_package_that_cannot_be_loaded_is_named(outside):
    offer(outside, "broken", "someone_s_other_module")
    with pytest.raises(ValueError, match="package someone offers .* cannot be loaded: ModuleNotFoundError"):
        get_method("broken")


def mean(stages, kind, steps=1):
    return stages[:1]


def swapped(kind, stages, steps=1):
    return stages[:1]


def loose(stages, kind, steps, share=0.5):
    return stages[:1]


def told(stages, kind, steps=1, *, predictor):
    return stages[:1]


def unknown_type(stages, kind, steps=1, *, share: "Nowhere" = 1):  # noqa: F821
    return stages[:1]


@pytest.mark.parametrize(
    "function, declared, error, said",
    [
        (mean, {}, ValueError, "'mean' is taken, of know_hf.retrodiction.controls: give your method another"),
        (swapped, {}, TypeError, r"takes \(kind, stages, steps=1\); a method takes \(stages, kind, steps, \*,"),
        (loose, {}, TypeError, "'loose' takes"),
        (lambda stages, kind, steps: stages, {}, TypeError, "a function with a name"),
        (told, {}, TypeError, "does not say which it reads"),
        (swapped, {"predictor": PredictorFamily("x", lambda given, stages: given)}, TypeError, "'swapped' takes"),
        (unknown_type, {}, TypeError, "a type that is not there: name 'Nowhere'"),
    ],
)
def test_what_is_no_method_is_refused(function, declared, error, said):
    before = dict(METHODS)
    with pytest.raises(error, match=said):
        method(**declared)(function)
    assert METHODS == before


def test_all_is_no_name():
    def all(stages, kind, steps=1):
        return stages[:1]

    with pytest.raises(ValueError, match="'all' is taken, which stands for all methods"):
        method(all)


def test_a_cell_may_be_run_again():
    for _ in range(2):

        @method
        def again(stages, kind, steps=1):
            return stages[:1].expand(steps, *stages.shape[1:])

    assert METHODS["again"].function is again


def test_what_is_returned_is_looked_at_beforehand():
    @method
    def one_step_only(stages, kind, steps=1):
        return stages[:1]

    with pytest.raises(ValueError, match=r"returns torch.float32 \(1, 2, 2\) for 3 steps of a tensor"):
        check_method("one_step_only", 5, ["fc"], 3, {})

    @method
    def needing(stages, kind, steps=1, *, share: float):
        return share * stages[:1]

    with pytest.raises(ValueError, match="needing needs the parameter 'share'"):
        check_method("needing", 5, ["fc"], 1, {})


def test_a_family_of_predictors_of_one_s_own():
    """A learned method brings its weights by the same way as the package's own."""

    def load(given, stages):
        made = torch.nn.Linear(stages, 1, bias=False)
        torch.nn.init.constant_(made.weight, float(given))
        return made

    @method(predictor=PredictorFamily("a line", load))
    def weighed(stages, kind, steps=1, *, predictor):
        return (predictor.weight[0, :, None] * stages.reshape(len(stages), -1)).sum(0).reshape(1, *stages.shape[1:])

    with pytest.raises(ValueError, match="weighed has no weights of its own here"):
        resolve(Prediction(method="weighed"), 2, 0.5)
    found = resolve(Prediction(method="weighed", predictor="0.5"), 2, 0.5)
    assert found.methods[0].source == "0.5" and found.methods[0].takes_blocks
    assert retrodict(torch.ones(2, 3), "fc", 1, "weighed", **found.methods[0].parameters).tolist() == [[1.0] * 3]


def test_shrink_takes_after_any_method_with_what_that_one_reads():
    plain = resolve(Prediction(method="shrink", parameters={"to": "tsv", "frac": 0.5}), 5, 0.5)
    plain.check(["fc"], 2)
    assert plain.methods[0].predictor is None and not plain.methods[0].takes_blocks
    assert resolve(Prediction(method="shrink"), 5, 0.5).methods[0].source == "bundled"
    assert resolve(Prediction(method="shrink", parameters={"factors": {"fc": 0.5}}), 5, 0.5).methods[0].source is None


def test_the_page_s_table_is_up_to_date():
    text = PAGE.read_text(encoding="utf-8")
    assert text == with_table(text), "run python -m know_hf.retrodiction.page"
    assert all(f"| `{name}` | " in text for name in METHODS)


def test_the_page_s_own_method_runs(tmp_path, monkeypatch):
    """The example is what it says it is: a module, registered as it is imported."""
    code = PAGE.read_text(encoding="utf-8").split("# my_methods.py\n")[1].split("```")[0]
    (tmp_path / "my_methods.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("my_methods")
    importlib.sys.modules.pop("my_methods")
    made = retrodict(torch.tensor([1.0, 0.5]), "fc", 2, "overshoot")
    assert made.tolist() == [1.25, 1.5]


def test_a_method_that_changes_what_others_read_is_refused():
    @method
    def writes(stages, kind, steps):
        stages[0].zero_()
        return stages[:1].expand(steps, *stages.shape[1:])

    try:
        with pytest.raises(ValueError, match="writes into the stages that it is given"):
            retrodict(torch.ones(3, 4), "fc", 1, "writes")
    finally:
        del METHODS["writes"]


def test_an_error_in_a_method_names_the_method():
    @method
    def breaks(stages, kind, steps):
        raise RuntimeError("boom")

    try:
        with pytest.raises(ValueError, match=r"The method breaks \(.*breaks\) failed: RuntimeError: boom"):
            retrodict(torch.ones(3, 4), "fc", 1, "breaks")
    finally:
        del METHODS["breaks"]
