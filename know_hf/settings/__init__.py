"""An option is stated once, as the field of a dataclass: flags, recipes, keywords and the reference come from it."""

from know_hf.settings.keywords import takes
from know_hf.settings.limits import COUNT, HUGE, SEED, STEPS, TINY, check_limits, check_range
from know_hf.settings.names import meant, suggestion
from know_hf.settings.options import Option, Options, documented, option, options_of, stated_by
from know_hf.settings.recipes import check_names, conform, make, modern, number, pairs, read_recipe

__all__ = [
    "COUNT",
    "HUGE",
    "SEED",
    "STEPS",
    "TINY",
    "Option",
    "Options",
    "check_limits",
    "check_names",
    "check_range",
    "conform",
    "documented",
    "make",
    "meant",
    "modern",
    "number",
    "option",
    "options_of",
    "pairs",
    "read_recipe",
    "stated_by",
    "suggestion",
    "takes",
]
