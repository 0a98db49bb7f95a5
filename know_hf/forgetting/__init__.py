"""Forgetting: data → trajectory."""
