"""A predictor for prediction alone: read from its folder without transformers, which takes longer to import than that.

It computes what [`KnownPredictor`](know_hf.known.modeling_known) does, by the same code, and does not train, save or
download.
"""

import json
from dataclasses import fields
from pathlib import Path

import torch
from safetensors.torch import load_file

from .bundled import bundled
from .networks import networks_of
from .predicting import Predicting
from .sizes import KnownSizes


class PlainPredictor(Predicting):
    """The networks of a predictor, with weights of float32.

    Args:
        config: Their sizes.
        weights: By name, as a predictor's file holds them.

    Raises:
        RuntimeError: If the weights are not those of such networks.
    """

    def __init__(self, config: KnownSizes, weights: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.config = config
        with torch.device("meta"):  # no initial values, and no random numbers for them
            self.networks = networks_of(config)
        self.load_state_dict({name: value.float() for name, value in weights.items()}, assign=True)
        self.eval()

    @classmethod
    def read(cls, folder: str | Path) -> "PlainPredictor":
        """Reads a predictor's folder.

        Raises:
            Exception: Of many types, if it is not a folder of one whole predictor in one file.
        """
        described = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
        if described["model_type"] != "known":
            raise ValueError(f"{folder} holds a model of type {described['model_type']!r}.")
        sizes = {field.name: described[field.name] for field in fields(KnownSizes) if field.name in described}
        return cls(KnownSizes(**sizes), load_file(Path(folder) / "model.safetensors"))

    @classmethod
    def default(cls, history_length: int = 5) -> "PlainPredictor":
        """Reads the predictor in the package that reads so many stages.

        Raises:
            ValueError: If there is none.
        """
        with bundled(history_length) as folder:
            return cls.read(folder)
