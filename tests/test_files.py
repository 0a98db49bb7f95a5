"""Data sets that are one file, and rows that lack something."""

import json

import pyarrow.parquet
import pytest
from conftest import QUICK
from datasets import Dataset, Features, Image, Value, load_dataset
from PIL import Image as Pillow

from know_hf import enrich_pretrained
from know_hf.forgetting.making import make_trainer
from know_hf.tasks import find_columns
from know_hf.training.data import complete_rows, load_evaluation, load_split, open_parts
from know_hf.training.files import split_names

ROWS = [{"text": f"{mood} film, very", "label": mood} for mood in ("good", "bad")] * 8
RUN = {**QUICK, "num_stages": 2, "per_device_train_batch_size": 8}


def write(path, rows=ROWS, separator=","):
    """Writes rows as the kind of file that the path says."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        quoted = [[f'"{value}"' for value in row.values()] for row in rows]
        lines = [separator.join(row) for row in [rows[0].keys(), *quoted]]
        path.write_text("\ufeff" + "\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.json", "a.jsonl", "a.parquet", "A.CSV"])
def test_a_file_is_a_data_set(tmp_path, name):
    path = write(tmp_path / name, separator="\t" if name.endswith("tsv") else ",")
    data = load_split(path)
    assert data[:] == {"text": [row["text"] for row in ROWS], "label": [row["label"] for row in ROWS]}
    columns = find_columns(data)
    assert (columns.inputs, columns.label, columns.class_names) == (["text"], "label", ["bad", "good"])
    assert len(load_split(str(path), "train[:25%]")) == 4 and len(load_evaluation(path)) == 16


@pytest.mark.parametrize("separator", [";", "|", "\t"])
def test_tables_of_other_countries(tmp_path, separator):
    assert load_split(write(tmp_path / "a.csv", separator=separator)).column_names == ["text", "label"]


def test_tables_as_programs_write_them(tmp_path):
    def loaded(name, text):
        (tmp_path / name).write_text(text)
        return load_split(tmp_path / name)[:]

    assert loaded("a.csv", "sep=;\ntext;label\ngood, really;1\n") == {"text": ["good, really"], "label": [1]}
    assert loaded("b.csv", 'text, label\n"good, really", pos\n') == {"text": ["good, really"], "label": ["pos"]}
    unpaired = 'text\tlabel\n"Best film\t1\nbad film\t0\n"So so\t1\n'
    assert loaded("c.tsv", unpaired) == {"text": ['"Best film', "bad film", '"So so'], "label": [1, 0, 1]}


def test_columns_of_another_type_are_named(text_model_folder):
    train = Dataset.from_list(ROWS)
    for rows, name in (([{"text": 7, "label": "good"}], "text"), ([{"text": 0.5, "label": "good"}], "text")):
        with pytest.raises(
            ValueError, match=f"Column {name!r} of the evaluation data holds .*, not texts: .*cast_column"
        ):
            open_parts({"training data": train, "evaluation data": Dataset.from_list(rows)})
    parts, _ = open_parts({"training data": train.with_format("torch")})
    assert parts["training data"][0] == ROWS[0], "rows are read as they are, whatever their format"


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.csv does not exist"):
        load_split(tmp_path / "nowhere.csv")
    (tmp_path / "a.xlsx").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"a.xlsx is no data file that can be read; there are .csv, .tsv"):
        load_split(tmp_path / "a.xlsx")
    (tmp_path / "a.jsonl").write_text('{"text": "x"\n{')
    (tmp_path / "b.csv").write_bytes("text,label\nschön,gut\n".encode("latin-1"))
    (tmp_path / "c.parquet").write_bytes(b"no parquet")
    (tmp_path / "d.csv").write_text("")
    for name, reader in (("a.jsonl", "json"), ("b.csv", "csv"), ("c.parquet", "parquet"), ("d.csv", "csv")):
        with pytest.raises(ValueError, match=f"{name} cannot be read as {reader}"):
            load_split(tmp_path / name)
    with pytest.raises(ValueError, match='Unknown split "test"'):
        load_split(write(tmp_path / "e.csv"), "test")


def test_tables_without_rows_and_with_a_column_twice_are_named(tmp_path):
    def refused(name, text, load=load_split):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        with pytest.raises(ValueError, match=f"{name} cannot be read as .*: ") as error:
            load(path if path.parent == tmp_path else path.parent)
        return str(error.value).partition(": ")[2]

    assert refused("a.csv", "text,label\n") == "it has no rows, only columns perhaps."
    assert refused("b.json", "[]").startswith("it has no rows")
    assert refused("a/train.csv", "text,label\n") == "it has no rows, only columns."
    assert refused("b/train.csv", "", load_evaluation) == "it is empty."
    twice = "the columns 1 and 3 are both called 'text'; rename or remove one."
    assert refused("c.csv", "text,label,text\na,1,b\n") == twice
    assert refused("d.csv", "sep=;\ntext;label; text\na;1;b\n") == twice
    assert refused("c/train.csv", "text,label,text\na,1,b\n") == twice
    (tmp_path / "e.csv").write_text("text,label,,\na,1,,\n")
    assert load_split(tmp_path / "e.csv").column_names[:2] == ["text", "label"], "what spreadsheets add has no name"
    write(tmp_path / "b" / "train.csv")
    (tmp_path / "b" / "test.csv").write_text("text,label\n")
    assert len(load_split(tmp_path / "b")) == len(ROWS), "another split may be empty"


@pytest.mark.parametrize("load", [load_split, load_evaluation, split_names])
def test_folders_without_data_are_told_from_names_on_the_hub(tmp_path, load):
    with pytest.raises(FileNotFoundError, match=f"Data folder {tmp_path} is empty: put .csv, .*images in a folder for"):
        load(str(tmp_path))
    (tmp_path / "notes.doc").write_text("x")
    with pytest.raises(FileNotFoundError, match=r"holds nothing that can be read \(notes.doc\): put .csv"):
        load(str(tmp_path))


def test_names_that_tell_the_classes_from_the_text():
    def found(*names):
        columns = find_columns(Dataset.from_dict({name: ["x", "y", "x"] for name in names}))
        return columns.inputs, columns.label

    assert found("Sentence", "Label") == (["Sentence"], "Label")
    assert found("review_id", "text", "label") == (["text"], "label")
    assert found("headline", "category") == (["headline"], "category")
    assert found("question", "sentence", "label") == (["question", "sentence"], "label")
    for names in (("headline", "sentence", "label"), ("title", "text", "label"), ("text", "category", "label")):
        with pytest.raises(ValueError, match="Several columns could be the input"):
            found(*names)


def test_rows_that_lack_something_are_named_or_left_out(tmp_path, caplog):
    rows = [dict(row) for row in ROWS]
    rows[3]["text"], rows[5]["label"], rows[6]["label"] = None, "", " "
    data = load_split(write(tmp_path / "a.jsonl", rows))
    columns = find_columns(data)
    gaps = "'text' in 1 of 16 rows, the first is row 3; 'label' in 2 of 16 rows, the first is row 5"
    with pytest.raises(ValueError, match=f"training data miss {gaps}.*drop_incomplete"):
        complete_rows(data, columns, "training data")
    assert len(complete_rows(data, columns, "training data", drop=True)) == 13
    assert f"Of the training data 3 of 16 rows are left out; missing: {gaps}." in caplog.text
    with pytest.raises(ValueError, match="No row of the evaluation data is complete"):
        complete_rows(data.select([3, 5]), columns, "evaluation data", drop=True)


def test_a_gap_among_numbers_leaves_them_classes(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text,label\n" + "good film,1\nbad film,0\n" * 4 + "film,\n")
    with pytest.raises(ValueError, match="'label' in 1 of 9 rows, the first is row 8"):
        open_parts({"training data": load_split(path)})
    parts, columns = open_parts({"training data": load_split(path)}, drop_incomplete=True)
    assert columns.class_names == ["0", "1"] and parts["training data"]["label"][:] == [1, 0] * 4


def test_a_missing_picture_is_named(image_model_folder, tmp_path):
    pictures = [Pillow.new("L", (16, 16), i) for i in range(6)]
    features = Features({"image": Image(), "label": Value("int64")})
    data = Dataset.from_dict({"image": [*pictures, None], "label": [0, 1, 2, 0, 1, 2, 0]}, features=features)
    with pytest.raises(ValueError, match="'image' in 1 of 7 rows, the first is row 6"):
        make_trainer(str(image_model_folder), data, tmp_path / "out", **RUN)


def test_from_files_to_enriched_checkpoints(text_model_folder, tmp_path):
    train, test = write(tmp_path / "train.csv"), write(tmp_path / "test.jsonl", ROWS[:4])
    result = enrich_pretrained(str(text_model_folder), str(train), tmp_path / "out", eval_dataset=test, steps=1, **RUN)
    assert result.metrics["x2"].keys() == result.metrics["stage-0"].keys() >= {"eval_accuracy"}
    assert result.trajectory.record.dataset["classes"] == ["bad", "good"]


def test_a_folder_with_one_split_is_evaluation_data(tmp_path):
    load_dataset("json", data_files=str(write(tmp_path / "a.jsonl")), split="train").to_parquet(
        tmp_path / "b/c.parquet"
    )
    assert len(load_evaluation(tmp_path / "b")) == 16
