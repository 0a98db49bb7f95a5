"""Plain ``from_pretrained`` folders as files: tensors read and overwritten by byte ranges, no model needed."""

from know_hf.checkpoints.checkpoint import Checkpoint
from know_hf.checkpoints.patch import CheckpointPatch

__all__ = ["Checkpoint", "CheckpointPatch"]
