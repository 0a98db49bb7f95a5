"""``python -m know_hf`` and ``accelerate launch -m know_hf``: the same command line as ``know-hf``."""

from know_hf.cli.main import main

if __name__ == "__main__":
    main()
