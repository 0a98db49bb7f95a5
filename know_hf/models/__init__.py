"""Models: loading them, what they were built as, adapters. Importing it registers those that are our own."""

from transformers import AutoConfig, AutoModelForImageTextToText

from know_hf.models.map_captioner import MapCaptioner, MapCaptionerConfig

AutoConfig.register(MapCaptionerConfig.model_type, MapCaptionerConfig, exist_ok=True)
AutoModelForImageTextToText.register(MapCaptionerConfig, MapCaptioner, exist_ok=True)
# A saved model brings its code, for machines without know-hf.
MapCaptionerConfig.register_for_auto_class()
MapCaptioner.register_for_auto_class("AutoModelForImageTextToText")
