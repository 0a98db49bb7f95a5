"""The predictor as a model of transformers: importing this registers its Auto classes."""

from transformers import AutoConfig, AutoModel

from .configuration_known import KnownConfig
from .modeling_known import KnownPredictor

AutoConfig.register("known", KnownConfig, exist_ok=True)
AutoModel.register(KnownConfig, KnownPredictor, exist_ok=True)
# A saved predictor brings its code, for machines without know-hf.
KnownConfig.register_for_auto_class()
KnownPredictor.register_for_auto_class("AutoModel")
