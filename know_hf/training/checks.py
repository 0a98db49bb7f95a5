"""What can be known of models and data by name, before anything large is loaded."""

from know_hf.model_config import read_config
from know_hf.models.building import check_timm
from know_hf.models.loading import raise_unreachable
from know_hf.remote import bounded
from know_hf.settings import meant
from know_hf.training.files import split_names


def splits_in(split: str) -> list[str]:
    """Names of the splits that one is made of.

    Example:
        >>> from know_hf.training.checks import splits_in
        >>> splits_in("train[:100]+test")
        ['train', 'test']
    """
    return [part.partition("[")[0].strip() for part in split.split("+")]


@bounded()
def check_model(
    model: str, *, from_scratch: bool = False, revision: str | None = None, trust_remote_code: bool = False
) -> None:
    """Looks for a model's configuration.

    Raises:
        FileNotFoundError: If it is neither a folder nor reachable on the Hub.
        OSError: If the folder holds none.
        ValueError: If the configuration is not known, or timm has no such architecture.
    """
    if from_scratch and str(model).startswith("timm/"):
        check_timm(str(model).removeprefix("timm/"))
        return
    try:
        read_config(model, revision=revision, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise_unreachable(str(model), error)


def check_splits(dataset: str, *splits: str, config: str | None = None) -> None:
    """Looks for splits, slices such as ``train[:100]`` included.

    Raises:
        FileNotFoundError: If the data set is neither local nor reachable on the Hub.
        ValueError: If it has no such split; the message names those there are.
    """
    there = split_names(dataset, config)
    for name in (name for split in splits for name in splits_in(split)):
        if there is not None and name not in (*there, "all"):
            raise ValueError(f"Data set {dataset!r} has no split {name!r}{meant(name, there, 'it has')}")
