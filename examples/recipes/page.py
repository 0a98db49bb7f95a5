"""The paper, its released code and the recipes beside one another: ``python examples/recipes/page.py docs/paper.md``.

What the recipes have is read from their files; what paper and code have is stated here.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from know_hf.forgetting.arguments import ForgettingArguments
from know_hf.forgetting.subsets import subset_sizes
from know_hf.laboratory.recipe import Recipe, load_recipe
from know_hf.laboratory.setting import Setting
from know_hf.meta.bundle import COLLECTED, REPORTED, TRAINED
from know_hf.meta.networks import NETWORKS
from know_hf.meta.options import CONVERGED_EPOCHS
from know_hf.meta.trials import STAGES
from know_hf.retrodiction import ALL

RECIPES = Path(__file__).parent
NOT_SAID = "not said"
_DEFAULTS = {field.name: field.default for field in fields(ForgettingArguments)}
_HEAD = """# The paper, its code and the recipes, number by number

Made by `python examples/recipes/page.py docs/paper.md`: the columns of the recipes are read from
`examples/recipes/*.yaml`. Paper: Jang, Kim and Kim 2025, arXiv 2508.05059v2. Code: github.com/jjh6297/KNOW
(`1_CIFAR100_Pretraininng.py`, `2_KNOW_Predict.py`, `3_Finetuning_KNOW_Predicted.py`, `4_Finetuning_Baseline.py`:
Table 1 at 100 % of the data, and no other table; `0_Data_Collection_Sample.py`: a sample of collecting meta-data;
`KNOWN.py` and `KNOW_Predict.py` with three files of weights: the predictor. Nothing of the meta-training itself).

As released, `1_CIFAR100_Pretraininng.py` trains **one** epoch a stage (`epochs=1`), so that the steps of its learning
rate never come; the recipes take the paper's 200 epochs with the schedule that the script defines.
"""


def said(value: Any) -> str:
    """A value of a recipe in words."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(said, value))
    return f"{value:g}" if isinstance(value, float) else "none" if value is None else str(value)


def training(name: str) -> Callable[[Setting], str]:
    """A training argument of the pre-training."""
    return lambda setting: said(_training(setting, name))


def _training(setting: Setting, name: str) -> Any:
    return setting.pretraining.training.get(name, _DEFAULTS[name])


def protocol(name: str) -> Callable[[Setting], str]:
    """A field of the protocol of fine-tuning."""
    return lambda setting: said(getattr(setting.transfer.make_protocol(), name))


def _schedule(setting: Setting) -> str:
    steps = _training(setting, "learning_rate_steps") or {}
    factors = [f"×{factor:g} after {epochs} epochs" for epochs, factor in steps.items()]
    return ", ".join([_training(setting, "lr_scheduler_type"), *factors])


def _optimizer(setting: Setting) -> str:
    betas = ", ".join(said(_training(setting, f"adam_{name}")) for name in ("beta1", "beta2", "epsilon"))
    return f"{_training(setting, 'optim')} ({betas}), weight decay {said(float(_training(setting, 'weight_decay')))}"


def _augmentation(setting: Setting) -> str:
    described = setting.pretraining.augmentation or {}
    return ", ".join(f"{name} {said(value)}" for name, value in described.items()) or "none"


def _architecture(setting: Setting) -> str:
    if setting.pretraining.architecture is None:
        return str(setting.pretraining.model)
    return ", ".join(f"{name} {said(value)}" for name, value in setting.pretraining.architecture.items())


def _settings(recipe: Recipe) -> str:
    return said([setting.name for setting in recipe.settings])


def _examples(recipe: Recipe, setting: Setting) -> int:
    return recipe.data_sets[setting.pretraining.dataset]["train"]


def _sizes(recipe: Recipe) -> str:
    setting = recipe.settings[0]
    ratio, stages = _training(setting, "sampling_ratio"), _training(setting, "num_stages")
    return ", ".join(f"{size:,}" for size in subset_sizes(_examples(recipe, setting), ratio, stages))


def _updates(recipe: Recipe) -> str:
    setting = recipe.settings[0]
    examples, batch = _examples(recipe, setting), _training(setting, "per_device_train_batch_size")
    whole, rest = divmod(examples, batch)
    steps = whole if _training(setting, "dataloader_drop_last") or not rest else whole + 1
    return f"{steps * int(_training(setting, 'num_train_epochs')):,}"


def _downstream(recipe: Recipe) -> str:
    target = recipe.settings[0].transfer
    pool, made = recipe.data_sets[target.dataset]["train"], target.make_protocol()
    held_out = 0 if target.validation_split else made.validation_examples
    return f"{target.dataset}, {made.examples or pool - held_out:,} images"


def _validation(setting: Setting) -> str:
    target = setting.transfer
    return f"split {target.validation_split}" if target.validation_split else (
        f"{target.make_protocol().validation_examples:,} images held out of the training split"
    )  # fmt: skip


def _head(setting: Setting) -> str:
    made = setting.transfer.make_protocol()
    if not made.head_epochs:
        return "no head phase"
    rate = "the arm's own, cosine" if made.head_learning_rate is None else f"constant {said(made.head_learning_rate)}"
    return f"{said(made.head_epochs)} epochs, head and norms, {rate}"


def _norms(setting: Setting) -> str:
    reset = getattr(setting, "reset", ())
    return "Θ⁰'s" + (f"; and that of a new network: {said(reset)}" if reset else "")


def _methods(setting: Setting) -> str:
    return "all" if set(setting.methods) == set(ALL) else said(setting.methods)


def _searched(setting: Setting) -> str:
    if len(setting.learning_rates) == 1:
        return "nothing"
    return "every arm" if "all" in setting.full_grid else f"naive, {said(setting.full_grid)}"


def _clipping(setting: Setting) -> str:
    return said(_training(setting, "max_grad_norm") or None)


def _fine_clipping(setting: Setting) -> str:
    return said(dict(setting.transfer.make_protocol().training_arguments).get("max_grad_norm", 1.0) or None)


Of = Callable[[Setting], str]
#: What; the paper's text; the released code; the recipe's value, of its first setting or of all of it; why it deviates.
Row = tuple[str, str, str, Of | Callable[[Recipe], str], str]

_OF_RECIPE = (_settings, _sizes, _updates, _downstream)

PRETRAINING: Sequence[Row] = (
    ("fractions of CIFAR-100", "100, 50, 25, 12.5, 6.25 %", "100 %",
     _settings, "one more with the common CIFAR ResNet18"),
    ("architecture", "ResNet18",
     "7×7 stem of stride 1, a pixel of zeros after its ReLU, no pooling, strides 1-1-2-2, biases, BatchNorm ε 1e-3, "
     "momentum 0.99, he_normal; maps 34/34/17/9, 2.07 GMAC", _architecture,
     "`know_resnet`'s defaults are the code's network"),
    ("image side", NOT_SAID, "32", lambda setting: said(setting.pretraining.image_size), ""),
    ("normalisation", NOT_SAID, "/255, less the mean of every pixel over all 50,000 training images",
     lambda setting: f"/255, mean: {said(setting.pretraining.image_mean)}",
     "at a fraction of the data the mean is that of the fraction"),
    ("epochs", "200", "1", training("num_train_epochs"), "the code's 1 stands in for the paper's 200"),
    ("optimizer (β₁, β₂, ε)", "Adam", "Adam (0.9, 0.999, 1e-8)", _optimizer, "AdamW without weight decay is Adam"),
    ("learning rate", NOT_SAID, "1e-3", training("learning_rate"), ""),
    ("schedule", "cosine", "×0.1 at epochs above 80, ×0.01 above 160, of epochs that count from 0", _schedule,
     "paper and code differ; cosine falls with every step"),
    ("gradient clipping", NOT_SAID, "none", _clipping, "Trainer's own default is 1"),
    ("batch", NOT_SAID, "128", training("per_device_train_batch_size"), ""),
    ("last, smaller batch dropped", NOT_SAID, "yes (steps an epoch are rounded down)", training("dataloader_drop_last"),
     "stage 4 of 6.25 % of the data has 195 images, of which a third would be lost"),
    ("augmentation", "yes", "rotation 10, shift 0.15, zoom 0.3, nearest pixel outside, no mirroring", _augmentation,
     "bilinear, as Keras; outside, the border's pixels"),
    ("bfloat16", NOT_SAID, "no", training("bf16"), "faster on accelerators"),
    ("optimizer steps of Θ⁰", NOT_SAID, "390", _updates, ""),
)  # fmt: skip
FORGETTING: Sequence[Row] = (
    ("sampling ratio r", "0.5", "0.5", training("sampling_ratio"), ""),
    ("stages S", "5", "5", training("num_stages"), ""),
    ("images of the stages", "nested random subsets", "first floor(50,000·rⁱ) of one shuffle", _sizes, ""),
    ("epochs of a stage", f"{NOT_SAID}; Table 7 implies as many as Θ⁰", "as Θ⁰", training("num_train_epochs"), ""),
    ("schedule", NOT_SAID, "anew in every stage", _schedule, "anew in every stage"),
    ("Adam's moments carried over", NOT_SAID, "yes", training("carry_optimizer"), ""),
    ("steps of the prediction", "3 (×2, ×4, ×8)", "3", lambda setting: said(setting.steps), ""),
    ("methods", "Table 1's", "KNOWN", _methods, "the authors' predictor joins by `--predictors official=FOLDER`"),
    ("controls", "incremental", "none", lambda setting: said(setting.controls) or "none", "ours but for incremental"),
)  # fmt: skip
TUNING: Sequence[Row] = (
    ("data", "CIFAR-10", "cifar10, 50,000 images", _downstream, "what learning rates are chosen on is held out"),
    ("head phase", NOT_SAID, "10 epochs, head and BatchNorm, constant 1e-3", _head,
     "the code keeps Adam's moments for the next phase; here each phase has its own optimizer"),
    ("BatchNorm of the starts", NOT_SAID, "baseline: Θ⁰'s; KNOWN: that of a new network",
     _norms, "arms of the same treatment can be compared"),
    ("BatchNorm statistics estimated anew", NOT_SAID, "no", protocol("renew_batch_norm"),
     "predicted kernels no longer fit Θ⁰'s statistics"),
    ("epochs", NOT_SAID, "100", protocol("epochs"), ""),
    ("learning rates", NOT_SAID, "4e-4", lambda setting: said(setting.learning_rates),
     "a single rate favours what it happens to suit"),
    ("searched for", NOT_SAID, "nothing", lambda setting: _searched(setting),
     "naive's for all other arms; which rate is best may lie beyond the grid, and the report says so"),
    ("schedule", NOT_SAID, "cosine, a step an epoch", lambda setting: "cosine, with every step", ""),
    ("gradient clipping", NOT_SAID, "none", _fine_clipping, ""),
    ("batch", NOT_SAID, "128", protocol("batch_size"), "the last, smaller batch is dropped, as in the code"),
    ("repetitions", "10", "5 (KNOWN), 4 (baseline)", lambda setting: said(setting.seeds), "of one pre-training"),
    ("validation", NOT_SAID, "the test set", _validation, "the test set is no place to choose on"),
    ("score reported", "accuracy after convergence", "all epochs stored", lambda setting: "after the last epoch", ""),
)  # fmt: skip


def _families() -> str:
    return said(sorted(NETWORKS))


def _examples_of_trials() -> str:
    least, most = COLLECTED["examples"]
    return f"{least:,} to {most:,}, large ones up to {COLLECTED['pool']:,}"


def _epochs_of_trials() -> str:
    least, most = COLLECTED["epochs"]
    return f"{least} to {most}; {CONVERGED_EPOCHS} times as many until Θ⁰ had converged"


def _amount() -> str:
    return f"{COLLECTED['trials']} trials, {REPORTED['trials']} more for the report alone; 126 MB"


def _other(name: str, size: str = "paper") -> Recipe:
    return load_recipe(RECIPES / f"{name}.yaml", size)


def _common(recipe: Recipe) -> list[tuple[str, str]]:
    setting = recipe.settings[0]
    splits = list(dict.fromkeys(s.pretraining.train_split for s in recipe.settings))
    told = [
        ("data", f"{setting.pretraining.dataset}: {said(splits)}"),
        ("network", _architecture(setting)),
        ("stages, ratio", f"{training('num_stages')(setting)}, {training('sampling_ratio')(setting)}"),
        ("epochs", training("num_train_epochs")(setting)),
        ("schedule, rate, clipping",
         f"{_schedule(setting)}, {training('learning_rate')(setting)}, {_clipping(setting)}"),
        ("steps, methods", f"{setting.steps}, {_methods(setting)}"),
    ]  # fmt: skip
    if setting.transfer is None:
        return told
    downstream = list(dict.fromkeys(s.transfer.dataset for s in recipe.settings))
    read = [s.read_stages for s in recipe.settings if s.read_stages]
    return [
        *told,
        ("downstream", said(downstream)),
        ("epochs, rates, seeds",
         f"{_head(setting)}; {protocol('epochs')(setting)}; {said(setting.learning_rates)}; {setting.seeds}"),
        ("batch; rates searched for", f"{protocol('batch_size')(setting)}; {_searched(setting)}"),
        *([("stages read", said(read))] if read else []),
    ]  # fmt: skip


# What the paper's tables on published checkpoints have in common.
_PUBLISHED = {
    "stages, ratio": "not said, 0.33", "steps, methods": "2 (×3, ×9): KNOWN, LogFit, TaskVector, MagMax, TSV"
}  # fmt: skip
#: Table → recipe, the paper's numbers by what they are, and what is otherwise.
OTHERS: dict[str, tuple[str, dict[str, str], str]] = {
    "Table 2": ("table2", {
        "data": "ImageNet", "network": "PVTv2, variant not said (B0 in the predecessor's code)",
        **_PUBLISHED,
        "downstream": "CIFAR-100, TinyImageNet, Stanford Cars, CUB, Oxford Flowers",
    }, "Θ⁰ is the published checkpoint. A stage's epochs are ours: 200 of ImageNet's are out of reach. Cars, CUB and "
       "Flowers are left to you: name them as further settings."),
    "Table 3": ("table3", {
        "data": "ImageNet", "network": "the PVTv2 of Table 2", **_PUBLISHED,
        "downstream": "PACS, one domain left out",
        "epochs, rates, seeds": "80 epochs",
    }, "Sizes, rates and batches are those of Table 2. The domain left out is tested on whole."),
    "Table 4": ("table4", {
        "data": "ImageNet", "network": "PVTv2 as encoder, a new transformer decoder", **_PUBLISHED,
        "downstream": "Flickr8k",
        "epochs, rates, seeds": "Adam, 50 epochs",
    }, "Decoder (2 layers of 512), tokenizer (the words that occur), batch and rates are ours; of a picture's five "
       "captions the first is learnt; no head phase, as the decoder is new."),
    "Table 5": ("table5", {
        "data": "Pascal VOC", "network": "DeepLabV3+, MobileNet", **_PUBLISHED, "downstream": "Cityscapes",
        "epochs, rates, seeds": "Adam, cosine, 150 epochs, augmentation",
    }, "Θ⁰ is the published checkpoint for images of 513 pixels; a stage's epochs, batch and rates are ours."),
    "Table 6": ("table6", {
        "data": "CIFAR-100", "network": "ResNet18", "stages, ratio": "2 … 5, 0.5", "epochs": "200",
        "schedule, rate, clipping": "cosine", "steps, methods": "3: KNOWN; TaskVector for S = 2",
        "downstream": "CIFAR-10", "epochs, rates, seeds": "10 repetitions", "stages read": "2, 3, 4, 5",
    }, "The paper's row S = 2 is the TaskVector of its Table 1; here a predictor of two stages is run, too."),
    "Table 7": ("table7", {
        "data": "50 % of CIFAR-100 (naive: 100 %, too)", "network": "ResNet18", "stages, ratio": "5, 0.5",
        "epochs": "200 (19 s each: 3,800 s, with forgetting 7,372 s; 38 s at 100 %)",
        "schedule, rate, clipping": "cosine", "steps, methods": "3: KNOWN, 3.01 s a step, 2.6774e-7 s a weight",
    }, "Times are those of the machine at hand. The accuracies are Table 1's at 50 and 100 %."),
    "Figure 3": ("figure3", {
        "data": "CIFAR-10", "network": "plain CNN, about 25,000 parameters",
        "steps, methods": "KNOWN, from Θ¹ … Θ⁵ to Θ̂⁰; 100,000 points of noise for the plane",
    }, "Every method is drawn; what else differs is said in the recipe."),
}  # fmt: skip
_META = (
    ("networks", "CNN, ResNet, DenseNet, ShuffleNet, MobileNetV2, …", "one CNN of 4 convolutions", _families),
    ("their parameters", "fewer than 3 million", "24,186", lambda: "5,106 to 448,810"),
    ("data", "CIFAR-10, MNIST, Fashion-MNIST", "CIFAR-10",
     lambda: "the same three; DenseNet and Fashion-MNIST held out"),
    ("examples of stage 0", NOT_SAID, "50,000", _examples_of_trials),
    ("stages of a trial", NOT_SAID, "7", lambda: str(STAGES)),
    ("sampling ratio r", "random", "U(0.3, 0.9)", lambda: "uniform, 0.3 (more for few examples) to 0.9"),
    ("learning rate", "random", "U(1e-5, 4e-3)",
     lambda: "log-uniform, 1e-4 (converged: 5e-4) to 4e-3; SGD: ten times that"),
    ("batch", "random", "U(32, 50,000·r⁶)", lambda: "32, 64 or 128"),
    ("epochs of a stage", NOT_SAID, "1", _epochs_of_trials),
    ("amount", "about 50 GB", "5 trials", _amount),
    ("objective", "ℓ1 of the residual", "none released", lambda: "ℓ1 of the residual"),
    ("training", NOT_SAID, "none released",
     lambda: f"at most {TRAINED.epochs} epochs of {TRAINED.rows:,} samples, batch {TRAINED.batch_size:,}"),
    ("start", NOT_SAID, "the weights are those of their earlier predictor, trained on", lambda: "random values"),
)  # fmt: skip
_UNRUN = """
None of the `paper` sizes has been run. Two arms have not been run at any size: the shrink control with the norms of the
authors' predictor, and starts with fresh BatchNorm (`reset: [naive, known]` of the `released` size); `regime.yaml` has
both among its cells. Tables 2 to 5 start from published weights, without which even a dry run cannot say what they
take. Tables 3, 4 and 5 have no released code; `examples/domain_generalisation.py`, `examples/enrich_captioning.py` and
`examples/enrich_segmentation.py` are scripts for one each.
"""


def page() -> str:
    """The page in Markdown."""
    recipes = [_other("table1"), _other("table1", "released")]
    parts = [_HEAD]
    for title, rows in (
        ("Pre-training", PRETRAINING),
        ("Forgetting and prediction", FORGETTING),
        ("Fine-tuning", TUNING),
    ):
        parts.append(f"## Table 1: {title.lower()}\n")
        lines = [["", "paper's text", "released code", "recipe `paper`", "recipe `released`", "why otherwise"]]
        lines += [
            [what, text, code, *(_value(of, recipe) for recipe in recipes), why] for what, text, code, of, why in rows
        ]
        parts.append(_table(lines))
    parts.append("## The other tables\n")
    lines = [["", "", "paper's text", "recipe `paper`"]]
    for name, (recipe, paper, why) in OTHERS.items():
        told = [(what, paper.get(what, NOT_SAID), value) for what, value in _common(_other(recipe))]
        lines += [["" if i else f"{name} (`{recipe}.yaml`)", *row] for i, row in enumerate(told)]
        lines.append(["", "why otherwise", "", why])
    meta = [["", "paper's text", "released sample", "bundled predictors"], *([*told, of()] for *told, of in _META)]
    meta_part = "## Meta-training (section 5.1)\n\n" + _table(meta)
    return "\n".join([*parts, _table(lines), meta_part, _UNRUN.lstrip("\n")])


def _value(of: Callable[[Any], str], recipe: Recipe) -> str:
    return of(recipe if of in _OF_RECIPE else recipe.settings[0])


def _table(rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:], ""])


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(), encoding="utf-8")
