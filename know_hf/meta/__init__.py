"""Where KNOWN comes from: trajectories of small networks, and meta-training on them."""
