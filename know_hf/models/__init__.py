"""Models: loading them, what they were built as, adapters; ``own`` registers those that are our own."""
