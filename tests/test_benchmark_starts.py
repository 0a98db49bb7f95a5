"""Benchmarks refuse what is none before a library is loaded."""

import pytest

from know_hf.cli.main import main
from know_hf.laboratory.benchmarks import check_starts


def test_what_can_be_known_early(tmp_path, image_model_folder, writer_folder, capsys):
    with pytest.raises(ValueError, match="is a TimmWrapperForImageClassification; benchmarks score models that write"):
        check_starts({"a": image_model_folder, "b": image_model_folder})
    check_starts({"a": writer_folder, "b": "user/on-the-hub"})
    with pytest.raises(FileNotFoundError, match="include_path nowhere is no folder"):
        check_starts({"a": writer_folder}, include_path="nowhere")
    with pytest.raises(SystemExit):
        main(["benchmark", "--tasks", "moods", "--output-dir", str(tmp_path / "out")])
    assert "--trajectory RUN, or two or more --arms NAME=FOLDER" in capsys.readouterr().err
