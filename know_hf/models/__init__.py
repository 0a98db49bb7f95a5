"""Models: loading them, what they were built as, adapters. Importing it registers those that are our own."""

from transformers import AutoConfig, AutoModelForImageClassification

from know_hf.models.plain_cnn import PlainCnnConfig, PlainCnnForImageClassification
from know_hf.models.resnet import SmallResNetConfig, SmallResNetForImageClassification

for _config, _model in (
    (SmallResNetConfig, SmallResNetForImageClassification),
    (PlainCnnConfig, PlainCnnForImageClassification),
):
    AutoConfig.register(_config.model_type, _config, exist_ok=True)
    AutoModelForImageClassification.register(_config, _model, exist_ok=True)
    # A saved model brings its code, for machines without know-hf.
    _config.register_for_auto_class()
    _model.register_for_auto_class("AutoModelForImageClassification")
