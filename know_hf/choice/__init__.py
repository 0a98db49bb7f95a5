"""Choice: which of a run's checkpoints is worth taking, judged on examples that nothing was trained on."""
