"""The second objective of meta-training: not how near a prediction comes to weights, but how well it does as a network.

A network of the meta-data set is retrodicted, differentiably, and run on images of its task that none of its stages
ever saw; what reaches the predictor is the gradient of its loss there. Optionally the loss is that after a few
steps of fine-tuning, whose effect on the gradient is left out (first order).
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from know_hf.known import KnownPredictor
from know_hf.known.differences import tensor_statistics
from know_hf.known.inference import FoldedNetwork
from know_hf.meta.data_set import MetaDataSet
from know_hf.meta.images import image_columns, named_sources, prepare_part
from know_hf.meta.networks import NETWORKS
from know_hf.meta.options import FunctionalSettings
from know_hf.meta.progress import Progress
from know_hf.meta.samples import Split
from know_hf.meta.shards import check_tensors
from know_hf.meta.trials import STAGES
from know_hf.progress import progress_bar
from know_hf.training.data import load_split
from know_hf.training.examples import Examples
from know_hf.training.prepared import open_examples
from know_hf.trajectory import to_history

#: Trials that an epoch is judged by, at most.
JUDGES = 24
#: Training examples, the last of a data set, that steps draw images from: trials take the first.
UNSEEN_EXAMPLES = 2000


class LiveTrial:
    """A trial's stages, ready to be retrodicted and run as a network.

    Args:
        meta: The meta-data set.
        name: Name of the trial.
        images: Images of its task that none of its stages saw.
        device: Where stages and network are kept.

    Raises:
        TrajectoryError: If the trial's file is damaged.
    """

    def __init__(self, meta: MetaDataSet, name: str, images: Examples, device: torch.device | str = "cpu"):
        settings = meta.settings(name)
        self.ratio, self.rate, self.images = settings["sampling_ratio"], settings["learning_rate"], images
        self.sign = settings["optimizer"] != "sgd"
        channels = images.inputs["pixel_values"].shape[1]
        self.model: nn.Module = NETWORKS[settings["architecture"]](channels, settings["width"]).to(device).train()
        stored, self.device = list(meta.read(name, None)), device
        live = check_tensors(meta.path(name), stored, self.model)
        self.tensors = [(live[t.tensor], t.kind, t.shape, torch.from_numpy(t.values).to(device)) for t in stored]

    def state(self, stage: int) -> dict[str, Tensor]:
        """Every floating-point tensor of a stage: live name → a copy in its own shape, float32."""
        return {name: values[stage].view(shape).clone() for name, _, shape, values in self.tensors}

    def retrodict(self, predictor: KnownPredictor, start: int) -> dict[str, Tensor]:
        """One step beyond stage ``start``, differentiable in the predictor; the rest is the stage's own."""
        state, length = self.state(start), predictor.config.history_length
        for kind in predictor.config.kinds:
            tensors = [(name, shape, values) for name, k, shape, values in self.tensors if k == kind]
            if not tensors:
                continue
            windows = [to_history(values[start : start + length]) for _, _, values in tensors]
            history, network = torch.cat(windows, 1), predictor.network(kind)
            if predictor.config.inputs == "values":
                residual = FoldedNetwork.of(network).residual(history)
            else:
                rows = [
                    tensor_statistics(w.reshape(-1, *shape), predictor.config, sampling_ratio=self.ratio).expand(
                        w.shape[1], -1
                    )
                    for w, (_, shape, _) in zip(windows, tensors, strict=True)
                ]
                residual = network(history.T, torch.cat(rows))
            parts = (history[-1] + residual).split([w.shape[1] for w in windows])
            state |= {name: part.view(shape) for (name, shape, _), part in zip(tensors, parts, strict=True)}
        return state

    def batch(self, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        """A batch of ``count`` images at random, on the device: ``pixel_values`` and ``labels``."""
        chosen = torch.randperm(len(self.images), generator=generator)[:count].tolist()
        return {name: values.to(self.device) for name, values in self.images.__getitems__(chosen).items()}

    def loss(self, state: dict[str, Tensor], batch: dict[str, Tensor]) -> Tensor:
        """Cross-entropy of a state, a scalar, with BatchNorm statistics of the batch."""
        output: Any = functional_call(self.model, state, kwargs=batch)
        return output["loss"]

    def tuned(self, state: dict[str, Tensor], steps: int, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        """The state after steps of fine-tuning, first order: gradients pass through as if it had only been moved.

        Steps of a trial that used Adam take the gradient's sign, as Adam's first step does.
        """
        parameters = [name for name, _ in self.model.named_parameters()]
        for _ in range(steps):
            leaf = {name: value.detach().requires_grad_(name in parameters) for name, value in state.items()}
            loss = self.loss(leaf, self.batch(count, generator))
            gradients = torch.autograd.grad(loss, [leaf[name] for name in parameters])
            moves = [g.sign() if self.sign else g for g in gradients]
            state = {**state, **{n: state[n] - self.rate * m for n, m in zip(parameters, moves, strict=True)}}
        return state


class FunctionalTraining:
    """Trains all kinds of a predictor at once, epoch by epoch; the best epoch on the choice trials is kept.

    Args:
        predictor: The predictor that the first objective left; changed in place.
        meta: The meta-data set.
        split: Its trials.
        data: Hub ids or folders of the data sets that it was collected on.
        settings: How to train.
        seed: Seed of the order of trials and images.
        work: Folder for its progress.

    Raises:
        FileNotFoundError: If a data set cannot be found.
        ValueError: If the data of a trial are missing.
    """

    def __init__(
        self, predictor: KnownPredictor, meta: MetaDataSet, split: Split, data: Sequence[str],
        settings: FunctionalSettings, seed: int, work: Path,
    ):  # fmt: skip
        self.predictor, self.settings, self.seed = predictor, settings, seed
        images = prepare_unseen(data, work / "cache")

        def live(names: Sequence[str]) -> list[LiveTrial]:
            return [LiveTrial(meta, name, open_task(images, meta, name), predictor.device) for name in names]

        self.train = live(split.train)
        # Evenly over the trials, so that every network and data set judges.
        self.judges = live(split.choice[:: max(1, math.ceil(len(split.choice) / JUDGES))])
        self.optimizer = torch.optim.Adam(predictor.parameters(), lr=settings.learning_rate)
        self.progress = Progress(work, "functional", predictor, self.optimizer, settings.epochs + 1, settings.patience)

    def run(self) -> None:
        """Trains to the end; the predictor ends as its best epoch, which may be the one before the first."""
        progress = self.progress
        if progress.epoch == 0:
            progress.finish_epoch(math.nan, self.score())
        bar = progress_bar(total=self.settings.epochs, initial=progress.epoch - 1, desc="Meta-training the function")
        with bar:
            while not progress.ended:
                self._epoch()
                bar.set_postfix(loss=f"{progress.state['best']:.4f}")
                bar.update()
        progress.load_best()

    def _epoch(self) -> None:
        epoch, settings = self.progress.epoch, self.settings
        generator = torch.Generator().manual_seed(2_000_003 * (self.seed + 1) + epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = settings.learning_rate * 0.5 * (1 + math.cos(math.pi * (epoch - 1) / settings.epochs))
        rooms, total = STAGES - self.predictor.config.history_length + 1, 0.0
        for position in torch.randperm(len(self.train), generator=generator).tolist():
            start = int(torch.randint(rooms, (), generator=generator))
            loss = self._relative_loss(self.train[position], start, generator)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(self.predictor.parameters(), 1.0)
            self.optimizer.step()
            total += loss.item()
        self.progress.finish_epoch(total / len(self.train), self.score())

    def _relative_loss(self, trial: LiveTrial, start: int, generator: torch.Generator) -> Tensor:
        """Loss of the prediction as a share of that of the stage it started from, both fine-tuned alike."""
        steps, count = self.settings.inner_steps, self.settings.images
        batch, marks, losses = trial.batch(count, generator), generator.get_state(), []
        for state in (trial.retrodict(self.predictor, start), trial.state(start)):
            generator.set_state(marks)  # the same images for both
            losses.append(trial.loss(trial.tuned(state, steps, count, generator), batch))
        return losses[0] / losses[1].detach().clamp_min(1e-6)

    def score(self) -> float:
        """Mean relative loss of one step beyond Θ^0 over the judges, always on the same images."""
        generator = torch.Generator().manual_seed(3)
        return sum(self._relative_loss(trial, 0, generator).item() for trial in self.judges) / len(self.judges)


def prepare_unseen(data: Sequence[str], cache_dir: Path) -> dict[str, Path]:
    """Prepares training images from the end of every data set, which no trial trained on.

    Args:
        data: Hub ids or folders of image data sets with ten classes.
        cache_dir: Folder for the prepared images.

    Returns:
        Last part of each name → file for [`open_examples`].

    Raises:
        FileNotFoundError: If a data set cannot be found.
        ValueError: As [`prepare_images`].
    """
    files = {}
    for name, source in named_sources(data).items():
        train = load_split(source, "train")
        columns = image_columns(source, train, UNSEEN_EXAMPLES)
        files[name] = prepare_part(
            train.select(range(len(train) - UNSEEN_EXAMPLES, len(train))), columns, cache_dir, name
        )
    return files


def open_task(images: dict[str, Path], meta: MetaDataSet, name: str) -> Examples:
    """Opens the prepared images of a trial's task.

    Raises:
        ValueError: If its data set is not among them.
    """
    wanted = meta.settings(name)["data_set"]
    if wanted not in images:
        raise ValueError(f"{name} was run on {wanted}, which is not among the data {', '.join(images)}: name it too.")
    return open_examples(images[wanted])
