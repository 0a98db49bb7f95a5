"""Options of uploads."""

import warnings
from dataclasses import dataclass

from know_hf.settings import Options, documented, option


@documented
@dataclass(frozen=True, kw_only=True)
class Hub(Options):
    """Whether and where the steps are uploaded when all is done, under the names that Trainer has for it.

    Trainer's own uploading of checkpoints never starts: a stage on its way is nothing to publish.

    Raises:
        ValueError: If there is to be an upload and no repository is named.

    Example:
        >>> from know_hf.hub.options import Hub
        >>> Hub(push_to_hub=True, hub_model_id="me/model").repository
        'me/model'
    """

    push_to_hub: bool = option(
        False,
        help="Upload the steps to hub_model_id when all is done, as its revisions x2, x4 …. The repository is made, "
        "and the token tried, before anything expensive.",
    )
    hub_model_id: str | None = option(None, help="Hub id of the repository to upload to.", former="push")

    def __post_init__(self) -> None:
        if self.push_to_hub == "":
            object.__setattr__(self, "push_to_hub", False)
        if isinstance(self.push_to_hub, str):
            warnings.warn(
                "push_to_hub is true or false, as in Trainer; name the repository by hub_model_id.",
                FutureWarning,
                stacklevel=4,
            )
            object.__setattr__(self, "hub_model_id", self.push_to_hub)
            object.__setattr__(self, "push_to_hub", True)
        if self.push_to_hub and not self.hub_model_id:
            raise ValueError("push_to_hub needs a repository: name it by hub_model_id (USER/NAME).")

    @property
    def repository(self) -> str | None:
        """Where to upload to, or None."""
        return self.hub_model_id if self.push_to_hub else None


@documented
@dataclass(frozen=True, kw_only=True)
class DatasetHub(Options):
    """Whether and where a meta-data set is uploaded when all is done."""

    push_to_hub: bool = option(False, help="Upload the set to hub_dataset_id when all is done.")
    hub_dataset_id: str | None = option(None, help="Hub id of the data set repository to upload to.", former="push")

    @property
    def repository(self) -> str | None:
        """Where to upload to, or None.

        Raises:
            ValueError: If there is to be an upload and no repository is named.
        """
        if self.push_to_hub and not self.hub_dataset_id:
            raise ValueError("push_to_hub needs a repository: name it by hub_dataset_id (USER/NAME).")
        return self.hub_dataset_id if self.push_to_hub else None
