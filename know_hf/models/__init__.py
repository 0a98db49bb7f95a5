"""Models: loading them, what they were built as, adapters; and networks of our own, made known to the Auto classes."""

from know_hf.models.resnet import SmallResNetForImageClassification

#: Name → class of the networks that this package brings along. Whoever imports this room can load them.
OWN_NETWORKS = {network.__name__: network for network in (SmallResNetForImageClassification,)}
