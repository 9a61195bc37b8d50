"""Questions from files: every form a data set comes in, and what is said of its bad rows."""

from __future__ import annotations

import base64
import io
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict, Features, Image, Sequence, Value
from PIL import Image as Pillow

from vtagent.errors import DataError, ImageError
from vtagent.regions import Region
from vtagent.training.data import Columns, FileExamples, MemoryTable, RenderedPages, mixed, open_examples, rendered
from vtagent.training.data.columns import texts
from vtagent.training.data.image_bytes import image_bytes, images_bytes


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parquet files are converted once; not into the user's own cache."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))


def png(width: int = 8, height: int = 6, colour: str = "white") -> bytes:
    file = io.BytesIO()
    Pillow.new("RGB", (width, height), colour).save(file, "PNG")
    return file.getvalue()


def write(folder: Path, *rows: dict[str, Any], name: str = "rows.jsonl") -> str:
    (folder / "a.png").write_bytes(png())
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder / name)


GOOD = {"image": "a.png", "question": "Total?", "answer": "48.10"}


def table(*rows: dict[str, Any], folder: Path = Path()) -> MemoryTable:
    return MemoryTable("rows", folder, rows)


def test_a_jsonl_file_finds_its_images_beside_itself(tmp_path: Path) -> None:
    (example,) = open_examples(write(tmp_path, {**GOOD, "source": "bills", "id": "x"}))
    assert (example.id, example.image, example.question) == ("x", png(), "Total?")
    assert (example.answers, example.source) == (("48.10",), "bills")


def test_without_a_source_or_an_id_the_file_and_the_row_are_named(tmp_path: Path) -> None:
    examples = open_examples(write(tmp_path, GOOD, GOOD))
    assert [(example.id, example.source) for example in examples] == [("rows/0", "rows"), ("rows/1", "rows")]


def test_the_samples_command_and_its_file_agree_on_the_source(tmp_path: Path) -> None:
    (example,) = open_examples(write(tmp_path, {**GOOD, "print": "small"}))
    assert example.source == "small print"


def test_the_place_of_a_value_comes_with_its_row(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{**GOOD, "value_box": [250, 500.0, 500, 560]}, {**GOOD, "value_box": None}, GOOD]
    assert [example.value_box for example in open_examples(write(tmp_path, *rows))] == [
        Region(250, 500, 500, 560),
        None,
        None,
    ]
    nested = {**GOOD, "info": {"place": [0, 0, 1000, 10]}}
    (example,) = open_examples(write(tmp_path, nested), columns=["value_box=info.place"])
    assert example.value_box == Region(0, 0, 1000, 10)


@pytest.mark.parametrize(
    "bad", [[1, 2, 3], "0,0,9,9", [0.1, 0.1, 0.2, 0.2], [0, 0, 0, 9], [0, 0, 1001, 9], [0, 0, True, 9], {"x1": 0}]
)
def test_a_row_whose_box_is_none_is_dropped_and_told(bad: Any, tmp_path: Path) -> None:
    examples = FileExamples(table(GOOD, {**GOOD, "value_box": bad}, folder=Path(write(tmp_path)).parent))
    assert examples.kept == [0]
    assert "1 with an unusable value box (first: row 2" in examples.summary


def test_columns_of_any_name_and_depth_can_be_mapped(tmp_path: Path) -> None:
    row = {"page": "a.png", "turns": [{"q": "Total?"}, {}], "gold": {"all": ["48.10", "48.1"]}, "set": 7}
    columns = ["image=page", "question=turns.0.q", "answers=gold.all", "source=set"]
    (example,) = open_examples(write(tmp_path, row), columns=columns)
    assert (example.question, example.answers, example.source) == ("Total?", ("48.10", "48.1"), "7")


@pytest.mark.parametrize("pairs", [["image"], ["picture=a"], ["image="], ["image=a", "image=b"]])
def test_a_mapping_that_cannot_be_meant_is_refused(pairs: list[str]) -> None:
    with pytest.raises(DataError, match="write NAME=COLUMN"):
        Columns.parse(pairs)


def test_a_missing_column_stops_and_says_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"rows: no column 'question' or 'problem' or 'query'; it has answer, image\."):
        open_examples(write(tmp_path, {"image": "a.png", "answer": "1"}))
    with pytest.raises(DataError, match="rows: no column 'page'; it has answer, image, question"):
        open_examples(write(tmp_path, GOOD), columns=["image=page"])


def test_bad_rows_are_dropped_and_counted_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "cut.png").write_bytes(png(200, 200)[:-40])
    rows: list[dict[str, Any]] = [
        GOOD,
        {**GOOD, "answer": " "},
        {**GOOD, "answer": None},
        {**GOOD, "question": "<image>\n"},
    ]
    rows += [{**GOOD, "image": "no.png"}, {**GOOD, "image": "cut.png"}, {"image": "a.png", "answer": "1"}]
    with caplog.at_level(logging.WARNING):
        examples = open_examples(write(tmp_path, *rows))
    assert isinstance(examples, FileExamples)
    assert [example.id for example in examples] == ["rows/0"]
    assert examples.dropped == {"an empty answer": 2, "an empty question": 2, "an unreadable image": 2}
    (record,) = caplog.records
    assert record.getMessage() == (
        "rows: 1 of 7 rows; dropped 2 with an empty answer (first: row 2), 2 with an empty question (first: row 4), "
        "2 with an unreadable image (first: row 5, 'no.png': No such file or directory)"
    )


def test_where_no_row_is_good_the_start_is_stopped(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no usable row: rows: 0 of 2 rows; dropped 2 with an unreadable image") as e:
        open_examples(write(tmp_path, {**GOOD, "image": "x.png"}, {**GOOD, "image": "y.png"}))
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("not json\n", "line 1: not a JSON object"),
        ('{"image": "a.png", "question": "?", "answer": "1"}\n[1]\n', "line 2: not a JSON object"),
        ("", "no rows"),
        ("\n\n", "no rows"),
    ],
)
def test_a_file_that_is_no_table_stops(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "rows.jsonl").write_text(text)
    with pytest.raises(DataError, match=complaint):
        open_examples(str(tmp_path / "rows.jsonl"))


def test_a_file_of_bytes_that_are_no_text_stops(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(b"\xff\xfe{}")
    with pytest.raises(DataError, match="not UTF-8 text"):
        open_examples(str(tmp_path / "rows.jsonl"))


@pytest.mark.parametrize("name", ["none.jsonl", "none.parquet", "./none", "/none/at/all"])
def test_a_file_that_is_not_there_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"[Nn]o such file"):
        open_examples(name)


def test_a_data_set_that_the_hub_does_not_have_is_one_line() -> None:
    with pytest.raises(DataError, match="nobody/nothing: ") as caught:
        open_examples("nobody/nothing")
    assert "\n" not in str(caught.value)


def test_a_data_set_of_the_hub_is_read_with_its_own_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load(name: str, *, split: str) -> Dataset:
        asked.append((name, split))
        features = Features({"page": Image(), "ask": Value("string"), "gold": Value("string"), "from": Value("string")})
        row = {"page": {"bytes": png(), "path": None}, "ask": "Total?", "gold": "48.10", "from": "bills"}
        return Dataset.from_list([row], features=features)

    monkeypatch.setattr("datasets.load_dataset", load)
    columns = ["image=page", "question=ask", "answers=gold", "source=from"]
    (example,) = open_examples("some/pages", columns=columns, split="validation")
    assert asked == [("some/pages", "validation")]
    assert (example.image, example.question, example.answers) == (png(), "Total?", ("48.10",))
    assert example.source == "bills"


def test_two_rows_with_one_id_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"1 ids stand for several rows, 'x' for one; name another column"):
        open_examples(write(tmp_path, {**GOOD, "id": "x"}, {**GOOD, "id": "x"}))


@pytest.mark.parametrize(
    "value",
    [
        png(),
        bytearray(png()),
        "a.png",
        "data:image/png;base64," + base64.b64encode(png()).decode(),
        {"bytes": png(), "path": None},
        {"bytes": None, "path": "a.png"},
    ],
)
def test_an_image_may_come_in_many_forms(tmp_path: Path, value: Any) -> None:
    (tmp_path / "a.png").write_bytes(png())
    assert image_bytes(value, tmp_path) == png()
    assert images_bytes(value, tmp_path) == [png()]
    assert images_bytes([value, "a.png", value], tmp_path) == [png()] * 3


def test_a_row_may_have_several_images_or_by_an_empty_list_none(tmp_path: Path) -> None:
    for name, colour in (("a", "white"), ("b", "red")):
        (tmp_path / f"{name}.png").write_bytes(png(colour=colour))
    rows: list[dict[str, Any]] = [
        {**GOOD, "image": ["a.png", "b.png"]},
        {**GOOD, "image": []},
        {**GOOD, "image": "b.png"},
    ]
    several, none, one = open_examples(write(tmp_path, *rows))
    assert several.images == (png(), png(colour="red"))
    assert none.images == ()
    assert one.images == (png(colour="red"),)
    bad: list[dict[str, Any]] = [{**GOOD, "image": ["a.png", "gone.png"]}, {**GOOD, "image": None}]
    with pytest.raises(DataError, match=r"dropped 2 with an unreadable image \(first: row 1, 'gone\.png': No such"):
        open_examples(write(tmp_path, *bad))


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c"])
def test_separators_of_unicode_in_a_text_end_no_line(tmp_path: Path, separator: str) -> None:
    (tmp_path / "a.png").write_bytes(png())
    lines = [json.dumps({**GOOD, "question": f"What{separator}now?"}, ensure_ascii=False) for _ in range(2)]
    assume_raw = "\n".join(lines)
    if separator in "\x0b\x0c\x1c":  # JSON wants these escaped; json.dumps has done so
        assert separator not in assume_raw
    (tmp_path / "rows.jsonl").write_bytes(b"\xef\xbb\xbf" + assume_raw.replace("\n", "\r\n").encode())
    assert [example.question for example in open_examples(str(tmp_path / "rows.jsonl"))] == [f"What{separator}now?"] * 2


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
def test_an_array_of_objects_is_read_whatever_the_file_is_called(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.png").write_bytes(png())
    (tmp_path / name).write_text("\n" + json.dumps([GOOD, {**GOOD, "question": "Second?"}], indent=1), "utf-8")
    assert [example.question for example in open_examples(str(tmp_path / name))] == [GOOD["question"], "Second?"]
    (tmp_path / name).write_text("[1, {}]")
    with pytest.raises(DataError, match=r"entry 1: not a JSON object"):
        open_examples(str(tmp_path / name))
    (tmp_path / name).write_text('[{"a": 1},')
    with pytest.raises(DataError, match="not a JSON array"):
        open_examples(str(tmp_path / name))
    (tmp_path / "one.json").write_text(json.dumps(GOOD))
    with pytest.raises(DataError, match=r"a \.json file holds an array"):
        open_examples(str(tmp_path / "one.json"))


def test_a_path_that_leads_nowhere_is_named_with_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png())
    rows: list[dict[str, Any]] = [
        {**GOOD, "info": {"gold": "1", "width": None}},
        {**GOOD, "info": None},
        {**GOOD, "info": {"gold": "2"}},
    ]
    file = write(tmp_path, *rows)
    with pytest.raises(
        DataError, match=r"no row has the column 'info\.glod'; info has gold, width\. Name it: answers="
    ):
        open_examples(file, columns=["answers=info.glod"])
    with pytest.raises(DataError, match=r"no row has the column 'info\.gold\.text'"):
        open_examples(file, columns=["answers=info.gold.text"])
    assert [e.answers for e in open_examples(file, columns=["answers=info.gold"])] == [("1",), ("2",)]


def test_a_pillow_image_becomes_a_file() -> None:
    data = image_bytes(Pillow.new("RGBA", (5, 4), "red"), Path())
    image = Pillow.open(io.BytesIO(data))
    assert (image.format, image.size, image.getpixel((0, 0))) == ("PNG", (5, 4), (255, 0, 0))


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        (None, "no image"),
        ("", "no image"),
        ({"bytes": None, "path": None}, "no form of an image"),
        (["a.png"], "list is no form of an image"),
        ("https://example.com/a.png", "is remote; download it first"),
        ("data:image/png;base64,%%%", "is not base64"),
        ("\0", "null"),
        (3.5, "float is no form"),
    ],
)
def test_what_is_no_image_is_named(tmp_path: Path, value: Any, complaint: str) -> None:
    with pytest.raises(ImageError, match=complaint):
        image_bytes(value, tmp_path)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a", ("a",)),
        (["a", " a ", "b", ""], ("a", "b")),
        (3, ("3",)),
        (0, ("0",)),
        (0.5, ("0.5",)),
        (float("nan"), ()),
        ({"a": 1}, ()),
        (b"a", ()),
        ([["a"], 2], ("a", "2")),
    ],
)
def test_gold_answers_may_be_texts_numbers_or_lists(value: Any, expected: tuple[str, ...]) -> None:
    assert texts(value) == expected


def published(rows: int) -> Dataset:
    """Rows as VisionThink publishes them."""
    features = Features(
        {
            "images": Image(),
            "problem": Value("string"),
            "solution": Value("string"),
            "original_answer": Value("string"),
            "data_source": Value("string"),
            "doc_id": Value("int64"),
            "info": {"tgt_width": Value("int64"), "tgt_height": Value("int64"), "use_tool": Value("bool")},
        }
    )
    row = {
        "images": {"bytes": png(100, 50), "path": None},
        "problem": "<image>\nWhat is the total?",
        "solution": r"\boxed{48.10}",
        "original_answer": "48.10",
        "data_source": "bills",
        "doc_id": 3,
        "info": {"tgt_width": 28, "tgt_height": 56, "use_tool": True},
    }
    return Dataset.from_list([row] * rows, features=features)


def check_published(name: str, **options: Any) -> None:
    examples = open_examples(name, **options)
    assert len(examples) == 2
    example = examples[1]
    assert (example.question, example.answers, example.source) == ("What is the total?", ("48.10",), "bills")
    assert example.id.endswith("/1")
    assert Pillow.open(io.BytesIO(example.image)).size == (56, 112)  # half of it is the published low view


def test_the_published_rows_are_read_from_parquet(tmp_path: Path) -> None:
    published(2).to_parquet(str(tmp_path / "train.parquet"))
    check_published(str(tmp_path / "train.parquet"))
    check_published(str(tmp_path))


def test_the_published_rows_are_read_from_a_saved_folder(tmp_path: Path) -> None:
    published(2).save_to_disk(str(tmp_path / "one"))
    check_published(str(tmp_path / "one"))
    DatasetDict({"val": published(2)}).save_to_disk(str(tmp_path / "split"))
    check_published(str(tmp_path / "split"), split="val")
    with pytest.raises(DataError, match="no split 'train'; it has val"):
        open_examples(str(tmp_path / "split"))


def test_a_folder_with_nothing_in_it_stops(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"neither \.parquet files nor a saved data set"):
        open_examples(str(tmp_path))


def test_a_list_in_parquet_holds_the_images_of_a_row(tmp_path: Path) -> None:
    features = Features(
        {"images": Sequence(Image()), "question": Value("string"), "answers": Sequence(Value("string"))}
    )
    rows = [
        {"images": [{"bytes": png(), "path": None}] * count, "question": "?", "answers": ["a", "b"]} for count in (1, 2)
    ]
    Dataset.from_list(rows, features=features).to_parquet(str(tmp_path / "rows.parquet"))
    examples = open_examples(str(tmp_path / "rows.parquet"))
    assert isinstance(examples, FileExamples)
    assert [(example.images, example.answers) for example in examples] == [
        ((png(),), ("a", "b")),
        ((png(), png()), ("a", "b")),
    ]
    assert not examples.dropped


def test_a_damaged_parquet_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "rows.parquet").write_bytes(b"PAR1 nonsense")
    with pytest.raises(DataError, match=r"rows\.parquet: ") as caught:
        open_examples(str(tmp_path / "rows.parquet"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [{"tgt_width": -3, "tgt_height": 5}, {"tgt_width": "wide", "tgt_height": 5}])
def test_a_target_size_that_cannot_be_is_an_unreadable_image(tmp_path: Path, size: dict[str, Any]) -> None:
    examples = open_examples(write(tmp_path, {**GOOD, "info": size}, {**GOOD, "info": {}}))
    assert [example.id for example in examples] == ["rows/1"]


def test_a_row_without_a_target_size_keeps_its_image(tmp_path: Path) -> None:
    (example,) = open_examples(write(tmp_path, {**GOOD, "info": {"use_tool": False}}))
    assert example.image == png()


def test_images_are_read_when_they_are_asked_for(tmp_path: Path) -> None:
    examples = open_examples(write(tmp_path, GOOD))
    (tmp_path / "a.png").write_bytes(png(colour="black"))
    assert examples[0].image == png(colour="black")
    (tmp_path / "a.png").unlink()
    with pytest.raises(ImageError, match=r"'a\.png'"):
        examples[0]


def test_a_long_table_reports_how_far_it_has_come(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.png").write_bytes(png())
    assert len(FileExamples(table(*[GOOD] * 1200, folder=tmp_path))) == 1200
    assert [line[-28:] for line in capsys.readouterr().err.strip().split("\r")] == [
        f"checked {rows}/1200 rows of rows"[-28:] for rows in (500, 1000, 1200)
    ]


def test_only_the_first_good_rows_can_be_wanted_and_no_others_are_looked_at(tmp_path: Path) -> None:
    bad = {**GOOD, "answer": ""}
    examples = open_examples(write(tmp_path, bad, GOOD, GOOD, GOOD, bad), count=2)
    assert [example.id for example in examples] == ["rows/1", "rows/2"]
    assert FileExamples(table(bad, GOOD, GOOD, bad, folder=tmp_path), limit=2).dropped == {"an empty answer": 1}
    with pytest.raises(DataError, match="0 questions wanted"):
        open_examples("rendered", count=0)


def test_several_files_are_one_after_the_other(tmp_path: Path) -> None:
    names = [write(tmp_path, *[GOOD] * count, name=f"{name}.jsonl") for name, count in (("a", 2), ("b", 1))]
    examples = open_examples(", ".join(names))
    ids = [f"{names[0]}#a/0", f"{names[0]}#a/1", f"{names[1]}#b/0"]
    assert [example.id for example in examples] == ids
    assert [example.id for example in open_examples(",".join(names[::-1]), count=2)] == [ids[2], ids[0]]
    assert mixed(examples, ["*=1"]).sources.count("b") == 2


def test_equal_ids_of_two_files_are_two_questions(tmp_path: Path) -> None:
    names = [write(tmp_path, {**GOOD, "id": 0, "question": name}, name=f"{name}.jsonl") for name in "ab"]
    assert [example.id for example in open_examples(names[0])] == ["0"]
    examples = list(open_examples(",".join(names)))
    assert [(example.id, example.question) for example in examples] == [(f"{names[0]}#0", "a"), (f"{names[1]}#0", "b")]


def test_rendered_pages_to_train_on_are_none_of_those_to_evaluate_on() -> None:
    practice = open_examples("rendered", count=6, seed=5)
    assert isinstance(practice, RenderedPages)
    assert list(practice) == list(RenderedPages(6, seed=5))
    assert [example.source for example in practice] == practice.sources == ["large print", "small print"] * 3
    evaluated = {example.image for example in rendered(3, seed=5)}
    assert not evaluated & {example.image for example in practice}
    assert practice[1:3] == [practice[1], practice[2]]
    assert open_examples("rendered-wide", count=1, seed=5)[0].image != practice[0].image


def test_rows_in_memory_are_a_table_too() -> None:
    (example,) = FileExamples(table({"image": Pillow.new("RGB", (4, 4)), "question": "?", "answer": 7}))
    assert example.answers == ("7",)
