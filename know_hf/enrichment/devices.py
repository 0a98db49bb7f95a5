"""Where predictions are computed."""

import torch


def usable(device: str | torch.device) -> torch.device:
    """A device that a user named, once something was computed on it.

    Raises:
        ValueError: If it is not there, or cannot be used.
    """
    try:
        torch.zeros(1, device=device).item()
        return torch.device(device)
    except Exception as error:  # torch raises many types for a device that is not there
        raise ValueError(f"device {str(device)[:80]!r} cannot be used here: {str(error).splitlines()[0]}") from error
