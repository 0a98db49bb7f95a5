"""What every command needs around its job: quiet libraries, and the recipe that it leaves behind."""

import json
import logging
import os
import sys
from pathlib import Path
from typing import Any


def quiet() -> None:
    """Leaves Trainer's and our own progress, without a bar for every file that is saved or loaded.

    Imports no library for it: what is imported later looks into the environment.
    """
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # its reports about a head that is new on purpose
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    if (transformers_logging := sys.modules.get("transformers.utils.logging")) is not None:
        transformers_logging.disable_progress_bar()
        transformers_logging.set_verbosity_error()
    if (datasets_logging := sys.modules.get("datasets.utils.logging")) is not None:
        datasets_logging.disable_progress_bar()
    logging.basicConfig(format="%(message)s", handlers=[_BesideBars()])
    main = os.environ.get("RANK", "0") == "0"
    logging.getLogger("know_hf").setLevel(logging.INFO if main else logging.ERROR)


class _BesideBars(logging.Handler):
    """Writes a line without tearing a progress bar that is being drawn."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        tqdm.write(self.format(record), file=sys.stderr)


def save_recipe(settings: dict[str, Any], output_dir: str | Path) -> None:
    """Writes ``run.yaml``, the resolved recipe of a run, without tokens and passwords."""
    import yaml

    from know_hf.store import write_text
    from know_hf.text import without_secrets

    plain = {name: value for name, value in sorted(settings.items()) if value is not None}
    kept = without_secrets(json.loads(json.dumps(plain)))
    write_text(Path(output_dir) / "run.yaml", yaml.safe_dump(kept, sort_keys=False, allow_unicode=True))
