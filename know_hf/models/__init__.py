"""Models: loading them, what they were built as, adapters. Importing it registers those that are our own."""

from transformers import AutoConfig, AutoModelForImageClassification

from know_hf.models.plain_cnn import PlainCnnConfig, PlainCnnForImageClassification

AutoConfig.register(PlainCnnConfig.model_type, PlainCnnConfig, exist_ok=True)
AutoModelForImageClassification.register(PlainCnnConfig, PlainCnnForImageClassification, exist_ok=True)
# A saved model brings its code, for machines without know-hf.
PlainCnnConfig.register_for_auto_class()
PlainCnnForImageClassification.register_for_auto_class("AutoModelForImageClassification")
