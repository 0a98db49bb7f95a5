"""What an experiment cost, and what it gave: the paper's Table 7."""

from know_hf.forgetting.controls import FORGETTING
from know_hf.laboratory.arms import Arm
from know_hf.laboratory.logs import read_logs
from know_hf.laboratory.outcome import SettingResult
from know_hf.report.plots import stage_symbol
from know_hf.tables import duration, rounded
from know_hf.trajectory.kinds import PREDICTED_KINDS

#: How the scores beside the costs were made.
SCORES_SHOWN = (
    "Scores are on the pre-training's own held-out data, without any fine-tuning: of the stages as they were trained, "
    "of every other start with its BatchNorm statistics re-estimated."
)


def cost_rows(settings: list[SettingResult]) -> list[list[str]]:
    """Seconds of every part, those of predictions per weight and step too, and scores of what it gave."""
    head, columns = ["part"], []
    for setting in settings:
        head.append(setting.setting.name)
        columns.append(_times(setting))
        if setting.own_scores:
            unit = " in percent" if setting.score.percent else ""
            head.append(f"{setting.setting.name}: {setting.score.name}{unit}")
            columns.append(_scores(setting))
    parts = dict.fromkeys(part for column in columns for part in column)
    return [head, *([part, *(column.get(part, "") for column in columns)] for part in parts)]


def _times(setting: SettingResult) -> dict[str, str]:
    logs = read_logs(setting.runs[FORGETTING])[: len(setting.trajectory)]
    first, rest = logs[0]["seconds"], sum(log["seconds"] for log in logs[1:])
    times = {"Θ⁰": duration(first), "the further stages": f"{duration(rest)} (×{rest / first:.2f} of Θ⁰)"}
    for name, folder in setting.runs.items():
        if name != FORGETTING:
            times[name] = duration(sum(log["seconds"] for log in read_logs(folder)))
    weights = sum(
        setting.trajectory.tensors[n].numel
        for n, p in setting.trajectory.parameters.items()
        if p.kind in PREDICTED_KINDS
    )
    for name, seconds in setting.seconds.items():
        steps = len(setting.steps(name))
        times[_predicted(name)] = f"{duration(seconds)} ({seconds / weights / steps:.1e} s a weight and step)"
    return times


def _scores(setting: SettingResult) -> dict[str, str]:
    def listed(arms: list[Arm]) -> str:
        steps = len(arms) > 1
        shown = [(arm.name, rounded(setting.score.shown(setting.own_scores[arm.name]), 1)) for arm in arms]
        return ", ".join(f"{name.rpartition(' ')[2]} {score}" if steps else score for name, score in shown)

    stages = [(stage.index, stage.metrics.get("eval_score")) for stage in setting.trajectory.record.stages]
    own = {i: rounded(setting.score.shown(score), 1) for i, score in stages if score is not None}
    scores = {
        "Θ⁰": own.get(0, ""),
        "the further stages": ", ".join(f"{stage_symbol(i)} {score}" for i, score in own.items() if i),
    }
    scores |= {name: listed([setting.arms[name]]) for name in setting.runs if name in setting.arms}
    return scores | {_predicted(name): listed(setting.steps(name)) for name in setting.seconds}


def _predicted(name: str) -> str:
    return f"predict: {name}"
