"""Trajectory → enriched checkpoints."""
