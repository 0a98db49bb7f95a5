"""Meta-trains the bundled default predictor: small networks forget, and KNOWN learns to undo it.

    python examples/train_default_predictor.py --data-root DATA --work-dir WORK --output-dir OUT

DATA holds the folders cifar10, mnist and fashion_mnist in Hub layout. Trials are kept in WORK, so a stopped run
continues. Takes about half an hour on two cores. The card in OUT says what came out.
"""

import argparse
import json
import multiprocessing
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from know_hf import KnownConfig, KnownPredictor, kinds_of
from know_hf.forgetting import nested_subsets
from know_hf.known.modeling_known import ScaledLinear
from know_hf.trajectory import to_history

DATA_SETS = ("cifar10", "mnist", "fashion_mnist")
STAGES = 7  # the paper's trajectory length


def load_images(root: Path, name: str, examples: int) -> tuple[torch.Tensor, torch.Tensor]:
    """First ``examples`` training images as ``(n, c, h, w)`` floats in [-1, 1], and their labels."""
    from datasets import load_dataset

    data = load_dataset(str(root / name), split=f"train[:{examples}]")
    column = next(c for c in ("img", "image") if c in data.column_names)
    mode = "RGB" if name == "cifar10" else "L"
    images = np.stack([np.asarray(image.convert(mode)) for image in data[column]])
    images = torch.from_numpy(images.reshape(len(images), *images.shape[1:3], -1)).permute(0, 3, 1, 2)
    return images.float() / 127.5 - 1, torch.tensor(data["label"][:])


def conv(inputs: int, outputs: int, stride: int = 1, groups: int = 1, norm: bool = True, size: int = 3) -> nn.Module:
    layer = nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=not norm)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs) if norm else nn.Identity(), nn.ReLU())


class Residual(nn.Module):
    def __init__(self, width: int, norm: bool):
        super().__init__()
        self.body = nn.Sequential(conv(width, width, norm=norm), conv(width, width, norm=norm))

    def forward(self, x):
        return x + self.body(x)


def build(name: str, channels: int, width: int) -> nn.Module:
    """One of the small networks; ``width`` scales it."""
    w = width
    if name == "cnn":
        body = [
            conv(channels, w, 2, norm=False),
            conv(w, 2 * w, 2, norm=False),
            conv(2 * w, 2 * w, 2, norm=False),
        ]
    elif name == "resnet":
        body = [conv(channels, w, 2), Residual(w, True), conv(w, 2 * w, 2), Residual(2 * w, True)]
    elif name == "resnet_bias":
        body = [
            conv(channels, w, 2, norm=False),
            Residual(w, False),
            conv(w, 2 * w, 2, norm=False),
            Residual(2 * w, False),
        ]
    elif name == "separable":
        body = [
            conv(channels, w, 2),
            conv(w, w, groups=w),
            conv(w, 2 * w, 2, size=1),
            conv(2 * w, 2 * w, groups=2 * w),
        ]
        body += [conv(2 * w, 4 * w, 2, size=1)]
    else:
        hidden = [nn.LazyLinear(4 * w), nn.ReLU(), nn.Linear(4 * w, 4 * w), nn.ReLU(), nn.Linear(4 * w, 10)]
        return nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), *hidden)
    features = 4 * w if name == "separable" else 2 * w
    head = [nn.Linear(features, 2 * w), nn.ReLU(), nn.Linear(2 * w, 10)]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), *head)


ARCHITECTURES = ("cnn", "resnet", "resnet_bias", "separable", "mlp")


def train(model, images, labels, indices, settings, epochs, generator) -> float:
    """Fine-tunes on a subset with a fresh optimizer and cosine decay; returns the last loss."""
    optimizer = getattr(torch.optim, settings["optimizer"])(
        model.parameters(), lr=settings["lr"] * (10 if settings["optimizer"] == "SGD" else 1)
    )
    batch = min(settings["batch_size"], len(indices))
    steps = epochs * max(1, len(indices) // batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    done, loss = 0, torch.tensor(float("nan"))
    while done < steps:
        order = torch.from_numpy(indices[generator.permutation(len(indices))])
        for start in range(0, len(order) - batch + 1, batch):
            chosen = order[start : start + batch]
            loss = F.cross_entropy(model(images[chosen]), labels[chosen])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            done += 1
            if done == steps:
                break
    return loss.item()


def collect(job: tuple) -> None:
    """Runs one trial of progressive forgetting and stores its seven stages."""
    path, root, seed = job
    if path.exists():
        return
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    generator = np.random.default_rng(seed)
    settings = {
        "data_set": DATA_SETS[seed % len(DATA_SETS)],
        "architecture": ARCHITECTURES[seed % len(ARCHITECTURES)],
        "width": int(generator.integers(8, 25)),
        "sampling_ratio": float(generator.uniform(0.3, 0.9)),
        "lr": float(np.exp(generator.uniform(np.log(1e-4), np.log(4e-3)))),
        "batch_size": int(generator.choice([32, 64, 128])),
        "optimizer": str(generator.choice(["Adam", "AdamW", "SGD"], p=[0.4, 0.4, 0.2])),
        "epochs": int(generator.integers(1, 5)),
        "base_epochs": int(generator.integers(5, 13)),
        "examples": int(generator.integers(2000, 6001)),
        "seed": seed,
    }
    images, labels = load_images(root, settings["data_set"], settings["examples"])
    model = build(settings["architecture"], images.shape[1], settings["width"])
    model(images[:2])
    subsets = nested_subsets(len(images), settings["sampling_ratio"], STAGES, seed)
    kinds = {name: p.kind for name, p in kinds_of(model).items() if p.kind in ("conv", "fc", "bias")}
    stages = []
    for index, subset in enumerate(subsets):
        loss = train(model, images, labels, subset, settings, settings["epochs" if index else "base_epochs"], generator)
        stages.append({name: model.get_parameter(name).detach().clone() for name in kinds})
    tensors = {name: torch.stack([stage[name] for stage in stages]).flatten(1) for name in kinds}
    settings["diverged"] = not all(torch.isfinite(t).all() for t in tensors.values()) or not np.isfinite(loss)
    temporary = path.with_suffix(".partial")
    save_file(tensors, temporary, metadata={"settings": json.dumps(settings), "kinds": json.dumps(kinds)})
    temporary.replace(path)
    print(
        f"trial {seed}: {settings['architecture']} on {settings['data_set']}, last loss {loss:.3f}",
        flush=True,
    )


def read_trial(path: Path) -> tuple[dict, dict[str, list[torch.Tensor]]]:
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    kinds, tensors = json.loads(metadata["kinds"]), load_file(path)
    by_kind: dict[str, list[torch.Tensor]] = {}
    for name, kind in kinds.items():
        by_kind.setdefault(kind, []).append(tensors[name])
    return json.loads(metadata["settings"]), by_kind


def windows(stages: torch.Tensor, length: int) -> list[torch.Tensor]:
    """``(7, n)`` stages → ``(n, length + 1)`` rows: a history in the predictor's order, then the stage to be found."""
    return [to_history(stages[t - 1 : t + length]).T for t in range(1, STAGES - length + 1)]


def sample(trials: list[dict], kind: str, length: int, per_tensor: int, generator: torch.Generator) -> torch.Tensor:
    """As many rows of every tensor of every trial, so that no layer outweighs another."""
    rows = []
    for trial in trials:
        for stages in trial.get(kind, []):
            for window in windows(stages, length):
                rows.append(window[torch.randint(len(window), (per_tensor,), generator=generator)])
    rows = torch.cat(rows)
    return rows[torch.randperm(len(rows), generator=generator)]


def penalty(network: nn.Module) -> torch.Tensor:
    """The paper's L1 penalties on the 64- and 32-wide layers: 1e-6 on kernels, 0.1 on biases."""
    layers = [layer for layer in network.modules() if isinstance(layer, ScaledLinear)]
    return sum(1e-6 * layer.weight.abs().sum() + 0.1 * layer.bias.abs().sum() for layer in layers)


@torch.no_grad()
def ratios(network: nn.Module, trials: list[dict], kind: str, length: int) -> tuple[float, float]:
    """‖Θ̂^0−Θ^0‖₁/‖Θ^1−Θ^0‖₁, retrodicted from Θ^1 … Θ^S: mean over trials, and all trials as one."""
    errors, distances = [], []
    for trial in trials:
        rows = [windows(stages, length)[0] for stages in trial.get(kind, [])]
        if rows:
            rows = torch.cat(rows)
            guess = rows[:, -2] + network(rows[:, :-1])
            errors.append((guess - rows[:, -1]).abs().sum().item())
            distances.append((rows[:, -2] - rows[:, -1]).abs().sum().item())
    return float(np.mean(np.divide(errors, distances))), sum(errors) / sum(distances)


def meta_train(network, kind, trials, held_out, length: int, epochs: int, per_tensor: int, seed: int):
    """Minimises the ℓ1 error; leaves the epoch that does best on held-out trials. Returns its ratios."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    best, best_state = (float("inf"), float("inf")), None
    for epoch in range(epochs):
        total = 0.0
        batches = sample(trials, kind, length, per_tensor, generator).split(8192)
        for rows in batches:
            loss = (rows[:, -2] + network(rows[:, :-1]) - rows[:, -1]).abs().mean()
            optimizer.zero_grad(set_to_none=True)
            (loss + penalty(network)).backward()
            optimizer.step()
            total += loss.item()
        schedule.step()
        score = ratios(network, held_out, kind, length)
        if score < best:
            best, best_state = score, {k: v.clone() for k, v in network.state_dict().items()}
        print(
            f"{kind} epoch {epoch}: training error {total / len(batches):.3e}, "
            f"held-out ratios {score[0]:.4f} {score[1]:.4f}",
            flush=True,
        )
    network.load_state_dict(best_state)
    return best


CARD = """---
license: apache-2.0
library_name: transformers
tags: [know-hf, know-prediction, weight-prediction]
---

# KNOWN, a default predictor of know-hf

Three networks of {size:,} parameters (conv, fc, bias) that read {length} stages of a forgetting trajectory and predict
the weights that more data would have given. Architecture and objective: KNOW prediction (Jang, Kim and Kim,
CVPR 2026). The weights are our own; nothing of the authors' released weights went into them.

```python
from know_hf import KnownPredictor

predictor = KnownPredictor.default({length})
```

## What it was trained on

{count} trials of progressive forgetting ({diverged} more diverged and were left out), made by
`examples/train_default_predictor.py --trials {trials} --history-length {length} --epochs {epochs} \
--per-tensor {per_tensor} --seed {seed}`.

- Networks: {networks}, with random widths.
- Data: {data}; {low} to {high} training images a trial.
- Each trial trained its network for 5 to 12 epochs, then fine-tuned it on {further} ever smaller nested subsets,
  each stage starting from the one before, 1 to 4 epochs a stage.
- Sampling ratio uniform in 0.3 … 0.9; learning rate log-uniform in 1e-4 … 4e-3 (ten times that for SGD);
  batch size 32, 64 or 128; Adam, AdamW or SGD.
- Every fifth trial was held out; the epoch that did best on those was kept.

## How good it is

‖Θ̂⁰−Θ⁰‖₁ / ‖Θ¹−Θ⁰‖₁ on the {held_out} held-out trials: below 1, the prediction from the {length} stages after
it is nearer to the true Θ⁰ than Θ¹ is. These trials share architectures and data sets with the training trials and
chose the epoch, so expect less elsewhere: run the self-check on your own trajectory.

| kind | mean of trials | all trials as one |
|---|---|---|
{rows}

The mean is the harder test: it counts trials that hardly moved, where a small constant error is a large share, as
much as those that moved far.

A small ratio says that the predictor undoes forgetting steps. It does not say that fine-tuning from its
prediction beyond Θ⁰ gains anything: compare with the controls on your task.
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--work-dir", type=Path, required=True)
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--trials", type=int, default=75)
    parser.add_argument("--history-length", type=int, default=5, help="stages S that the predictor reads, 2 to 6")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--per-tensor", type=int, default=2048, help="rows of each tensor and window an epoch")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    args.work_dir.mkdir(parents=True, exist_ok=True)
    seeds = range(args.seed, args.seed + args.trials)
    jobs = [(args.work_dir / f"trial-{seed:05d}.safetensors", args.data_root, seed) for seed in seeds]
    with multiprocessing.get_context("spawn").Pool(args.processes) as pool:
        pool.map(collect, jobs, chunksize=1)

    found = [read_trial(path) for path, _, _ in jobs]
    good = [(settings, trial) for settings, trial in found if not settings["diverged"]]
    train_trials = [trial for i, (_, trial) in enumerate(good) if i % 5]
    held_out = [trial for i, (_, trial) in enumerate(good) if i % 5 == 0]
    torch.manual_seed(args.seed)
    predictor = KnownPredictor(KnownConfig(history_length=args.history_length))
    found_ratios = {
        kind: meta_train(
            predictor.network(kind),
            kind,
            train_trials,
            held_out,
            args.history_length,
            args.epochs,
            args.per_tensor,
            args.seed,
        )
        for kind in predictor.config.kinds
    }
    predictor.save_pretrained(args.output_dir)
    used = [settings for settings, _ in good]
    card = CARD.format(
        count=len(good),
        length=args.history_length,
        size=sum(p.numel() for p in predictor.network("conv").parameters()),
        per_tensor=args.per_tensor,
        diverged=len(found) - len(good),
        trials=args.trials,
        epochs=args.epochs,
        seed=args.seed,
        networks=", ".join(sorted({s["architecture"] for s in used})),
        data=", ".join(sorted({s["data_set"] for s in used})),
        low=min(s["examples"] for s in used),
        high=max(s["examples"] for s in used),
        further=STAGES - 1,
        held_out=len(held_out),
        rows="\n".join(f"| {kind} | {mean:.3f} | {pooled:.3f} |" for kind, (mean, pooled) in found_ratios.items()),
    )
    (args.output_dir / "README.md").write_text(card, encoding="utf-8")
    print(json.dumps(found_ratios))


if __name__ == "__main__":
    main()
