"""Trajectory → enriched checkpoints."""

from know_hf.enrichment.pretrained import enrich_pretrained
from know_hf.enrichment.result import EnrichmentResult
from know_hf.enrichment.stream import enrich

__all__ = ["EnrichmentResult", "enrich", "enrich_pretrained"]
