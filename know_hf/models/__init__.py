"""Models: loading them, what they were built as, adapters. Importing it registers those that are our own."""

from transformers import AutoConfig, AutoModelForImageClassification

from know_hf.models.resnet import SmallResNetConfig, SmallResNetForImageClassification

AutoConfig.register(SmallResNetConfig.model_type, SmallResNetConfig, exist_ok=True)
AutoModelForImageClassification.register(SmallResNetConfig, SmallResNetForImageClassification, exist_ok=True)
# A saved model brings its code, for machines without know-hf.
SmallResNetConfig.register_for_auto_class()
SmallResNetForImageClassification.register_for_auto_class("AutoModelForImageClassification")
