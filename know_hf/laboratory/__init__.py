"""Does it help? Fine-tuning from every candidate under one protocol, paired over seeds."""
