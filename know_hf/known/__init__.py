"""The hyper-model KNOWN: importing it registers its Auto classes."""

from transformers import AutoConfig, AutoModel

from know_hf.known.configuration_known import KnownConfig
from know_hf.known.modeling_known import KnownPredictor

AutoConfig.register("known", KnownConfig, exist_ok=True)
AutoModel.register(KnownConfig, KnownPredictor, exist_ok=True)

__all__ = ["KnownConfig", "KnownPredictor"]
