"""Variants of meta-training that gained nothing over the paper's recipe (RESULTS.md), kept to be tried on other data.

None of them runs by default. ``branches`` makes further data for a meta-data set, ``variants`` holds the other targets,
the other unit of errors and what predictors of differences are told, ``functional`` the second objective.
"""
