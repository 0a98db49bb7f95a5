"""Networks that transformers does not have: importing this registers them with its Auto classes."""

from typing import Any

from transformers import AutoConfig, AutoModelForImageClassification, AutoModelForImageTextToText

from know_hf.models.map_captioner import MapCaptioner, MapCaptionerConfig
from know_hf.models.plain_cnn import PlainCnnConfig, PlainCnnForImageClassification
from know_hf.models.resnet import SmallResNetConfig, SmallResNetForImageClassification

_OWN: tuple[tuple[Any, Any, Any], ...] = (
    (AutoModelForImageClassification, SmallResNetConfig, SmallResNetForImageClassification),
    (AutoModelForImageClassification, PlainCnnConfig, PlainCnnForImageClassification),
    (AutoModelForImageTextToText, MapCaptionerConfig, MapCaptioner),
)
for _auto_class, _config, _model in _OWN:
    AutoConfig.register(_config.model_type, _config, exist_ok=True)
    _auto_class.register(_config, _model, exist_ok=True)
    # A saved model brings its code, for machines without know-hf.
    _config.register_for_auto_class()
    _model.register_for_auto_class(_auto_class.__name__)
