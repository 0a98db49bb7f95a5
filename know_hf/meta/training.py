"""Meta-training: KNOWN learns to undo the forgetting of many small networks."""

import json
import math
import os
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from tqdm.auto import tqdm

from know_hf.enrichment.provenance import hash_file
from know_hf.forgetting.resume import OptimizerState
from know_hf.hub.cards import predictor_card
from know_hf.known import KnownConfig, KnownPredictor
from know_hf.known.modeling_known import ScaledLinear
from know_hf.locking import locked
from know_hf.meta.collection import MetaDataSet
from know_hf.meta.evaluation import retrodiction_errors
from know_hf.meta.samples import Samples, Split, split_trials
from know_hf.meta.trials import STAGES
from know_hf.trajectory import TrajectoryError
from know_hf.trajectory.record import write_atomically

RESULT = "meta_training.json"


@dataclass(frozen=True)
class MetaTrainingSettings:
    """How a predictor is trained; the objective and the penalties are the paper's.

    Args:
        epochs: Epochs at most, one cosine decay over all of them.
        rows: Rows drawn an epoch, for each kind.
        batch_size: Rows a step.
        learning_rate: Of Adam.
        patience: Epochs without a better choice score after which a kind ends.
        kernel_penalty: L1 penalty on the kernels of the gated and last layers of each stream.
        bias_penalty: L1 penalty on their biases.
        seed: Of initial values and drawing.

    Source: paper section 5.1 (ℓ1 objective) and the authors' network definition (penalties).
    """

    epochs: int = 100
    rows: int = 2_000_000
    batch_size: int = 8192
    learning_rate: float = 1e-3
    patience: int = 20
    kernel_penalty: float = 1e-6
    bias_penalty: float = 0.1
    seed: int = 0


def meta_train(
    meta: MetaDataSet | str | Path,
    output_dir: str | Path,
    *,
    config: KnownConfig | None = None,
    settings: MetaTrainingSettings | None = None,
    held_out_architectures: Collection[str] = ("densenet",),
    held_out_data: Collection[str] = ("fashion_mnist",),
) -> dict[str, Any]:
    """Trains one network a kind, and leaves a folder that ``KnownPredictor.from_pretrained`` loads.

    The epoch that does best on trials with either an unseen network family or unseen data is kept; the report is on
    trials where both are unseen. Stopped and called again, it continues with the next epoch and gives the same.

    Args:
        meta: A [`MetaDataSet`] or its folder.
        output_dir: Folder of the predictor.
        config: Sizes of the predictor; ``history_length`` 2 to 6.
        settings: How to train.
        held_out_architectures: Network families that are not trained on.
        held_out_data: Data sets that are not trained on.

    Returns:
        What ``meta_training.json`` in the folder holds: settings, split, and the table of errors on the report's
        trials (see [`retrodiction_errors`]).

    Raises:
        TrajectoryError: If the meta-data are damaged, or the folder holds another training.
        ValueError: If nothing is left to train on, choose by or report on.

    Source: paper section 5.1.

    Example:
        >>> from know_hf.meta.training import meta_train
        >>> meta_train("meta", "predictor")["errors"]  # doctest: +SKIP
    """
    meta = meta if isinstance(meta, MetaDataSet) else MetaDataSet(meta)
    config, settings, output_dir = config or KnownConfig(), settings or MetaTrainingSettings(), Path(output_dir)
    if config.history_length >= STAGES:
        raise ValueError(f"history_length is {config.history_length}; trials of {STAGES} stages allow at most 6.")
    split = split_trials(meta, held_out_architectures, held_out_data)
    described = {
        "config": {name: getattr(config, name) for name in _SIZES},
        "settings": asdict(settings),
        "split": asdict(split),
        "held_out": {"architectures": list(held_out_architectures), "data": list(held_out_data)},
        "data": {note["name"]: note["sha256"] for note in meta.trials},
    }
    with locked(output_dir):
        work = output_dir / "training"
        _same_training(work / "settings.json", described)
        torch.manual_seed(settings.seed)
        predictor = KnownPredictor(config)
        for kind in config.kinds:
            _KindTraining(kind, predictor.network(kind), meta, split, config.history_length, settings, work).run()
        predictor.save_pretrained(output_dir)
        errors = retrodiction_errors(
            meta, split.report, {"known": predictor.eval()}, steps=STAGES - config.history_length
        )
        result = {**described, "weights": hash_file(output_dir / "model.safetensors"), "errors": errors}
        write_atomically(output_dir / RESULT, json.dumps(result, indent=1) + "\n")
        size = sum(parameter.numel() for parameter in predictor.network(config.kinds[0]).parameters())
        write_atomically(output_dir / "README.md", predictor_card(result, size))
    return result


_SIZES = ("history_length", "hidden_size", "bottleneck_size", "output_size", "negative_slope", "kinds")


class _KindTraining:
    """The training of one kind's network, epoch by epoch."""

    def __init__(self, kind, network: nn.Module, meta, split: Split, length: int, settings, work: Path):
        self.kind, self.network, self.length, self.settings, self.work = kind, network, length, settings, work
        self.meta, self.split = meta, split
        self.optimizer = torch.optim.Adam(network.parameters(), lr=settings.learning_rate)
        self.state = {"epoch": 0, "best": math.inf, "best_epoch": -1, "history": []}

    def run(self) -> None:
        """Trains to the end or until nothing gets better; the network ends as its best epoch."""
        self._restore()
        settings = self.settings
        if not self._ended():
            train = Samples(self.meta, self.split.train, self.kind)
            choice = Samples(self.meta, self.split.choice, self.kind)
            # The same rows in every epoch, so that epochs can be compared.
            held_out = choice.draw(min(settings.rows, 500_000), self.length, torch.Generator().manual_seed(1))
            bar = tqdm(total=settings.epochs, initial=self.state["epoch"], desc=f"Meta-training {self.kind}")
            with bar:
                while not self._ended():
                    self._epoch(train, held_out)
                    bar.set_postfix(error=f"{self.state['best']:.3f}")
                    bar.update()
        self.network.load_state_dict(load_file(self.work / f"{self.kind}-best.safetensors"))

    def _ended(self) -> bool:
        epoch, best = self.state["epoch"], self.state["best_epoch"]
        return epoch >= self.settings.epochs or (best >= 0 and epoch - best > self.settings.patience)

    def _epoch(self, train: Samples, held_out: torch.Tensor) -> None:
        settings, epoch = self.settings, self.state["epoch"]
        # Each epoch draws its own numbers, so that one that is repeated draws the same.
        generator = torch.Generator().manual_seed(1_000_003 * (settings.seed + 1) + epoch)
        rate = settings.learning_rate * 0.5 * (1 + math.cos(math.pi * epoch / settings.epochs))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        penalised = [m for m in self.network.modules() if isinstance(m, ScaledLinear)]
        total = torch.zeros(())
        batches = train.draw(settings.rows, self.length, generator).split(settings.batch_size)
        for rows in batches:
            history, target = rows[:, :-1], rows[:, -1]
            loss = (history[:, -1] + self.network(history) - target).abs().mean()
            penalty = sum(
                settings.kernel_penalty * m.weight.abs().sum() + settings.bias_penalty * m.bias.abs().sum()
                for m in penalised
            )
            self.optimizer.zero_grad(set_to_none=True)
            (loss + penalty).backward()
            self.optimizer.step()
            total += loss.detach()
        score = self._score(held_out)
        self.state["history"].append([total.item() / len(batches), score])
        if score < self.state["best"]:
            self.state |= {"best": score, "best_epoch": epoch}
            self._save(f"{self.kind}-best.safetensors")
        self.state["epoch"] = epoch + 1
        self._save(f"{self.kind}-last.safetensors")
        OptimizerState(self.work / f"{self.kind}-optimizer.safetensors").save(self.optimizer)
        write_atomically(self.work / f"{self.kind}.json", json.dumps(self.state) + "\n")

    @torch.no_grad()
    def _score(self, rows: torch.Tensor) -> float:
        """‖Θ̂−Θ‖₁ as a share of the distance that there was, over rows drawn evenly."""
        error = distance = 0.0
        for part in rows.split(65_536):
            history, target = part[:, :-1], part[:, -1]
            error += (history[:, -1] + self.network(history) - target).abs().sum().item()
            distance += (history[:, -1] - target).abs().sum().item()
        return error / max(distance, 1e-30)

    def _save(self, name: str) -> None:
        temporary = self.work / f"{name}.partial"
        save_file({key: value.contiguous() for key, value in self.network.state_dict().items()}, temporary)
        os.replace(temporary, self.work / name)

    def _restore(self) -> None:
        note = self.work / f"{self.kind}.json"
        if note.exists():
            self.state = json.loads(note.read_text())
            self.network.load_state_dict(load_file(self.work / f"{self.kind}-last.safetensors"))
            OptimizerState(self.work / f"{self.kind}-optimizer.safetensors").load_into(self.optimizer)


def _same_training(path: Path, described: dict[str, Any]) -> None:
    described = json.loads(json.dumps(described))
    if path.exists():
        found = json.loads(path.read_text())
        if different := [name for name in described if found.get(name) != described[name]]:
            raise TrajectoryError(
                f"{path.parent.parent} holds another training (different {', '.join(different)}); choose another "
                "output_dir."
            )
        return
    write_atomically(path, json.dumps(described, indent=1) + "\n")
