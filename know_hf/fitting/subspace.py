"""A live model whose weights are put together of the stages of a trajectory, and the way back of its gradients."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from know_hf.forgetting.weights import is_sharded, plain_model
from know_hf.retrodiction.subspace import combined
from know_hf.trajectory import Trajectory, TrajectoryError
from know_hf.trajectory.names import stored_names


class Subspace:
    """The weights ``Θ^0 + Σ c_i (Θ^(i−1) − Θ^i) + c_S Θ^0`` of a live model as a function of the coefficients c.

    The stages stay on the disk, and are read tensor by tensor, unless there is room for all of them: memory is the
    model, its gradients, and the stages of the largest tensor.

    Args:
        model: The live model; weights that are not in the subspace have to be those of stage 0.
        trajectory: Its stages.
        groups: Name of a tensor → group; the tensors of a group share their coefficients.
        keep: Bytes of stages that may be kept on the model's device.

    Raises:
        TrajectoryError: If the model is none of the trajectory's.
        ValueError: If a process holds only a part of the model.
    """

    def __init__(self, model: nn.Module, trajectory: Trajectory, groups: Mapping[str, str], keep: int = 0) -> None:
        self.model, self.trajectory = plain_model(model), trajectory
        if is_sharded(self.model):
            raise ValueError("Fitting needs a whole model in every process: fit without FSDP and DeepSpeed.")
        live = dict(self.model.named_parameters())
        live |= {name: p for name, p in self.model.named_parameters(remove_duplicate=False)}
        names, tensors = stored_names(self.model), trajectory.tensors
        #: Name of a stored tensor → the parameter that it is, as far as a parameter is one whole stored tensor.
        self.parameters = {
            name: live[names[name]]
            for name in groups
            if name in names and names[name] in live and tuple(tensors[name].shape) == tuple(live[names[name]].shape)
        }
        if not self.parameters:
            raise TrajectoryError(
                f"{trajectory.root}: no tensor that is predicted is a parameter of a {type(self.model).__name__} as it "
                "is stored; fitting needs the model that made the stages."
            )
        self.groups = sorted({groups[name] for name in self.parameters})
        index = {group: number for number, group in enumerate(self.groups)}
        self.rows = {name: index[groups[name]] for name in self.parameters}
        self.largest = max(tensors[name].numel for name in self.parameters)
        size = sum(4 * len(trajectory) * tensors[name].numel for name in self.parameters)
        self._kept: dict[str, Tensor] | None = {} if size <= keep else None

    @property
    def zeros(self) -> Tensor:
        """The coefficients of Θ^0: ``(groups, S)`` float64."""
        return torch.zeros(len(self.groups), len(self.trajectory), dtype=torch.float64)

    def put(self, coefficients: Tensor) -> None:
        """Puts the weights of these coefficients, ``(groups, S)``, into the model."""
        with torch.no_grad():
            for name, parameter, stages in self._stages():
                own = coefficients[self.rows[name]].to(stages)
                parameter.copy_(combined(stages, own).reshape(parameter.shape))

    def slopes(self) -> Tensor:
        """The derivatives of a loss by the coefficients, ``(groups, S)`` float64, from the gradients in the model."""
        found = self.zeros
        with torch.no_grad():
            for name, parameter, stages in self._stages():
                if parameter.grad is not None:
                    gradient = parameter.grad.reshape(-1).to(stages)
                    differences = stages[:-1] - stages[1:]
                    own = torch.cat((differences @ gradient, (stages[0] @ gradient)[None]))
                    found[self.rows[name]] += own.double().cpu()
        return found

    def table(self, coefficients: Tensor) -> dict[str, list[float]]:
        """The coefficients of every tensor."""
        return {name: coefficients[row].tolist() for name, row in self.rows.items()}

    def _stages(self) -> Iterator[tuple[str, nn.Parameter, Tensor]]:
        """Name, parameter and ``(S, n)`` stages of every tensor."""
        for name, parameter in self.parameters.items():
            if self._kept is None:
                yield name, parameter, self.trajectory.read(name).to(parameter.device)
                continue
            if name not in self._kept:
                self._kept[name] = self.trajectory.read(name).to(parameter.device)
            yield name, parameter, self._kept[name]
