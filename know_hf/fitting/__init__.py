"""Fitting: which point of a trajectory's own subspace is best on data, as a small table of coefficients."""
