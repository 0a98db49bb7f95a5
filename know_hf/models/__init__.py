"""Models: loading them, what they were built as, adapters."""
