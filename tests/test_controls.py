"""Controls: one declaration each, from which everything else follows."""

import pytest

from know_hf.forgetting.controls import CONTROLS, TRAINED, Averaged, Chosen, Matched, Predicted, find_control

STAGES, STEPS = ["D0", "D1", "D2"], [8, 4, 2]


def test_what_each_control_sees():
    assert TRAINED == ("forgetting", "incremental", "equal_compute", "once_more", "soup")
    seen = {name: control.subsets(STAGES) for name, control in CONTROLS.items()}
    computed = dict.fromkeys(["soup_stock", "shrink", "shrink_perturb", "ema", "swa", "task_vector_chosen"], [])
    on_all = dict.fromkeys(["equal_compute", "once_more", "soup"], ["D0"])
    assert seen == {"forgetting": STAGES, "incremental": STAGES[::-1], **on_all, **computed}
    assert CONTROLS["equal_compute"].steps(STEPS) == 6 and CONTROLS["equal_compute"].start == "stage-0"
    assert CONTROLS["once_more"].start == "stage-0"
    assert all(CONTROLS[name].steps is None for name in ("forgetting", "incremental", "once_more"))


def test_controls_are_found_by_name():
    assert find_control("incremental") == (CONTROLS["incremental"], None)
    control, factor = find_control("shrink 0.5")
    assert isinstance(control.result, Predicted) and control.result.method == "shrink"
    assert control.result.parameters(factor) == {"factors": {"conv": 0.5, "fc": 0.5, "bias": 0.5}}
    control, factor = find_control("shrink_perturb 0.4")
    assert control.result.method == "shrink_perturb" and control.result.parameters(factor) == {"lam": 0.4}
    assert find_control("ema")[0].result == Averaged("ema")
    chosen = find_control("task_vector_chosen")[0].result
    assert isinstance(chosen, Chosen) and (chosen.method, chosen.parameter) == ("task_vector", "lam")
    there = (
        "incremental, equal_compute, once_more, soup, soup_stock, ema, swa, task_vector_chosen, 'shrink 0.5', "
        "'shrink_perturb 0.5' or 'shrink to NAME' of a prediction"
    )
    assert find_control("shrink to official")[0].result == Matched("official")
    numbers = ("shrink x", "shrink 0.5 2", "incremental 2", "ema 0.9")
    for wrong in ("", "forgetting", "shrink", "shrink to", "magic", *numbers):
        with pytest.raises(ValueError, match=f"Unknown control '{wrong}'; use {there}"):
            find_control(wrong)
    with pytest.raises(ValueError, match=f"Unknown control 'shrnk 0.5'; did you mean shrink\\? Use {there}"):
        find_control("shrnk 0.5")
