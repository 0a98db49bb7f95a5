"""What an enrichment leaves behind."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from know_hf.enrichment.writer import read_enrichment
from know_hf.trajectory import Trajectory

if TYPE_CHECKING:
    from know_hf.choice.best import Choice

#: Name of stage 0's scores with BatchNorm statistics re-estimated as for the predictions.
BASELINE = "stage-0 (BatchNorm re-estimated)"


@dataclass
class EnrichmentResult:
    """Enriched checkpoints and what is known about them.

    Args:
        output_dir: Folder of the whole run.
        trajectory: The trajectory they were predicted from.
        checkpoints: Step name (``"x2"`` …) → plain ``from_pretrained`` folder.
        statistics: Step name → kind → relative change ``‖Θ̂−Θ^0‖/‖Θ^0‖`` and norm ratio ``‖Θ̂‖/‖Θ^0‖``,
            and the cosine to KNOWN's change where both were predicted in one pass.
        metrics: ``"stage-0"`` and step names → scores on the evaluation set, when there was one; with BatchNorm also
            those of stage 0 with its statistics re-estimated like the predictions', the fair comparison.
        self_check: Result of the self-check, when it was asked for.
        unmoved: Reason → number of tensors that could have been predicted but were copied: they were not trained, or
            are equal in all stages. ``enrichment.json`` names them.
        reset: Number of layers that begin as in a new network (``norms="reset"``).
        report: Folder of plots and tables, when they were made.
        verdict: What all of it allows to say, in plain sentences: first what to take and what not to use, where that
            was chosen; empty where only weights were predicted.
        best: Folder of the checkpoint to take, which may be a copy of Θ^0; None where nothing was chosen.
        choice: Candidates, scores and gains behind it.

    Source: paper section 4.6 (the steps); everything else that is said of them is ours.

    Example:
        >>> from know_hf import enrich
        >>> result = enrich("runs/my-model", steps=1)  # doctest: +SKIP
        >>> result.checkpoints["x2"]  # doctest: +SKIP
        PosixPath('runs/my-model/enriched/x2')
    """

    output_dir: Path
    trajectory: Trajectory
    checkpoints: dict[str, Path]
    statistics: dict[str, dict[str, dict[str, float]]]
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    self_check: dict[str, Any] | None = None
    unmoved: dict[str, int] = field(default_factory=dict)
    reset: int = 0
    report: Path | None = None
    verdict: str = ""
    best: Path | None = None
    choice: "Choice | None" = None

    @classmethod
    def read(
        cls, root: Path, trajectory: Trajectory, checkpoints: Mapping[str, Path], unmoved: dict[str, int], reset: int
    ) -> "EnrichmentResult":
        """Collects what written folders say about themselves.

        Args:
            root: As ``output_dir`` of the class.
            trajectory: As of the class.
            checkpoints: As of the class.
            unmoved: As of the class.
            reset: As of the class.

        Returns:
            The result, with ``statistics`` and ``metrics``.

        Raises:
            FileNotFoundError: If a folder says nothing about itself.
            ValueError: If what it says is damaged or of something else.
        """
        described = {name: read_enrichment(f) for name, f in checkpoints.items()}
        of = trajectory.record.dataset.get("evaluation")  # scores of other data are not shown beside those
        metrics = {
            name: content["metrics"]
            for name, content in described.items()
            if content["metrics"] and (of is None or content.get("evaluation", of) == of)
        }
        baseline = next(iter(described.values()), {}).get("baseline")
        if baseline and metrics:
            metrics = {BASELINE: baseline, **metrics}
        if first := trajectory.record.stages[0].metrics:
            metrics = {"stage-0": first, **metrics}
        statistics = {name: content["statistics"] for name, content in described.items()}
        return cls(root, trajectory, dict(checkpoints), statistics, metrics, unmoved=unmoved, reset=reset)

    def push_to_hub(self, repo_id: str, *, method: str | None = None, **options: Any) -> str:
        """Uploads the steps as revisions of one repository: ``from_pretrained(repo_id, revision="x4")``.

        Under ``accelerate launch`` the main process uploads; the others return at once.

        Args:
            repo_id: ``user/name``; made if need be. ``main`` becomes the recommended checkpoint: the chosen one, or
                else the first step.
            method: Which method's steps, when several were predicted.
            **options: As for [`push`][know_hf.hub.push.push], and so as for transformers: ``commit_message``,
                ``commit_description``, ``private``, ``token``, ``revision``, ``create_pr``; ``dry_run``,
                ``overwrite_card``. With ``revision`` or ``create_pr`` only the recommended checkpoint is sent.

        Returns:
            Address of the repository.

        Raises:
            ConnectionError, PermissionError, ValueError: As [`push`][know_hf.hub.push.push].
            ValueError: Also if there are several methods and none is named, or none of that name.

        Example:
            >>> from know_hf import enrich
            >>> enrich("runs/mine").push_to_hub("me/mine", private=True)  # doctest: +SKIP
            'https://huggingface.co/me/mine'
        """
        from accelerate import PartialState

        from know_hf.hub.push import push

        folders = {folder.parent for folder in self.checkpoints.values()}
        if method is not None:
            folders = {self.checkpoints[name].parent for name in self.checkpoints if name.startswith(f"{method}/")}
        if len(folders) != 1:
            methods = sorted({name.split("/")[0] for name in self.checkpoints if "/" in name})
            raise ValueError(f"Say which method's steps to push: method= one of {', '.join(methods)}.")
        if not PartialState().is_main_process:
            return ""
        steps = folders.pop()
        if options.get("revision") or options.get("create_pr"):
            first = next(folder for folder in self.checkpoints.values() if folder.parent == steps)
            return push(self.best or first, repo_id, **options)
        return push(steps, repo_id, main=self.best, **options)
