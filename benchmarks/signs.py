"""How many weights fall into blocks whose signs within KNOWN are certain, on the trajectory of a run.

    python benchmarks/signs.py RUN [--most 200000]

With the signs of a stream's gates and leaky outputs known, it is linear but for its exponentials, and its output one
dot product. Two shares are printed, of blocks of neighbouring weights, as stored and sorted: those whose signs really
are the same throughout (what the best of all bounds could find), and those for which bounds of the gates by intervals,
block by block, say so. Below them stands what could be won at most, were all blocks certain.
"""

import argparse
from itertools import product

import torch

from know_hf import KnownPredictor, Trajectory
from know_hf.known.inference import FoldedNetwork
from know_hf.tables import table

BLOCKS = (16, 64, 256)
#: Which weights share a block: as they lie, or a tensor's sorted first.
ORDERS = ("as stored", "sorted by the newest value")
# Operations of an exponential and of what belongs to it, in vector instructions (kernel.cpp).
EXPONENTIAL = 14


def signs(stream, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Signs of gates ``(8, n)`` and of outputs before the leaky unit ``(32, n)``."""
    gates = torch.addmm(stream.gates[1], stream.gates[0], inputs)
    opened = gates.relu()
    hidden = torch.addmm(stream.hidden[1], stream.hidden[0], inputs)
    rate = torch.addmm(stream.rate[1], stream.rate[0], opened)
    gain = torch.addmm(stream.gain[1], stream.gain[0], opened)
    output = torch.addmm(stream.shift[1], stream.shift[0], opened) + stream.gated @ (gain * (rate * hidden).exp())
    return gates > 0, output > 0


def same(found: torch.Tensor, block: int) -> torch.Tensor:
    """Of ``(rows, n)`` signs: blocks in which every row has one, ``(n / block,)``."""
    parts = found.unflatten(1, (-1, block))
    return (parts.all(2) | ~parts.any(2)).all(0)


def bounded(stream, inputs: torch.Tensor, block: int) -> torch.Tensor:
    """Blocks in which intervals of the inputs settle every gate."""
    parts = inputs.unflatten(1, (-1, block))
    low, high = parts.amin(2), parts.amax(2)
    middle = torch.addmm(stream.gates[1], stream.gates[0], (low + high) / 2)
    reach = stream.gates[0].abs() @ ((high - low) / 2)
    return (middle.abs() > reach).all(0)


def gain_at_most(folded: FoldedNetwork) -> float:
    """Vector instructions of a weight now, divided by those with every sign known and nothing spent on finding out."""
    before = after = 0
    for stream in (folded.values, folded.differences):
        (gates, inputs), hidden, outputs = stream.gates[0].shape, len(stream.hidden[0]), len(stream.gated)
        before += gates * inputs + hidden * (inputs + 2 * gates) + outputs * (gates + hidden) + 3 * outputs
        after += 3 * hidden * inputs + hidden + inputs  # the exponential's factors, and one dot product
        before += EXPONENTIAL * hidden
        after += EXPONENTIAL * hidden
    return before / after


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="folder with a trajectory of five stages")
    parser.add_argument("--most", type=int, default=200_000, help="weights of a tensor that are looked at")
    args = parser.parse_args()
    trajectory, predictor = Trajectory.load(args.run), KnownPredictor.default()
    sums: dict[tuple[str, str, int], torch.Tensor] = {}
    folded = {kind: FoldedNetwork.of(predictor.network(kind)) for kind in predictor.config.kinds}
    with torch.no_grad():
        for name, parameter in trajectory.parameters.items():
            if parameter.kind not in folded:
                continue
            history = trajectory.read(name, 0, args.most).float().flip(0)  # the most forgotten first
            network = folded[parameter.kind]
            in_order = history[:, history[-1].argsort()]
            for (order, values), block in product(zip(ORDERS, (history, in_order), strict=True), BLOCKS):
                part = values[:, : values.shape[1] // block * block]
                if not part.shape[1]:
                    continue
                pairs = ((network.values, part), (network.differences, part.diff(dim=0)))
                found = [signs(stream, inputs) for stream, inputs in pairs]
                gates = same(torch.cat([of_gates for of_gates, _ in found]), block)
                outputs = same(torch.cat([of_outputs for _, of_outputs in found]), block)
                certain = torch.stack([bounded(stream, inputs, block) for stream, inputs in pairs]).all(0)
                counts = torch.stack([gates.sum(), (gates & outputs).sum(), certain.sum(), torch.tensor(len(gates))])
                key = parameter.kind, order, block
                sums[key] = sums.get(key, torch.zeros(4)) + counts
    rows = [
        ["kind", "neighbours", "block", "gates the same", "gates and outputs", "gates certain by intervals", "blocks"]
    ]
    for (kind, order, block), counts in sorted(sums.items()):
        rows.append([kind, order, str(block), *(f"{share:.1%}" for share in (counts[:3] / counts[3]).tolist()),
                     f"{int(counts[3]):,}"])  # fmt: skip
    most = ", ".join(f"{kind} {gain_at_most(network):.1f}" for kind, network in folded.items())
    print(f"{table(rows)}\n\nat most, were every block certain at no cost: {most} times faster")


if __name__ == "__main__":
    main()
