import unicodedata
from pathlib import Path

from dataset_zips import kaggle, parquet
from listed import PNG, find, refusal
from nerveseg.data.names import natural_key


def test_names_match_in_either_form_of_unicode(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "1_ä.png") for form in ("NFC", "NFD"))
    for in_zip, in_table in ((composed, decomposed), (decomposed, composed)):
        dataset = find(tmp_path, {in_zip: PNG, "t.pq": parquet(image=[in_table], rle_mask=["1 5"])})
        assert [record.image for record in dataset.records] == [composed]
        assert dataset.findings == []


def test_numbers_in_names_may_have_any_length() -> None:
    long = "1" * 5000
    names = [f"{long}_1", f"2{long}_1", "10_1", "9_1", "009_1", "9_01"]
    assert sorted(names, key=natural_key) == ["009_1", "9_01", "9_1", "10_1", f"{long}_1", f"2{long}_1"]


def test_no_layout_lists_what_was_found(tmp_path: Path) -> None:
    text = refusal(tmp_path, {"a/1.raw": b"x", "a/2.raw": b"x", "readme": b"", "labels.csv": b"file,label\na,b\n"})
    assert "2 .raw in a/" in text
    assert "1 (no suffix) in ./" in text
    assert "labels.csv with the columns file, label" in text
    assert "image, rle_mask" in text


def test_two_layouts_are_rejected(tmp_path: Path) -> None:
    table = parquet(image=["1_1.png"], rle_mask=["1 5"])
    assert "fits several layouts: hydrogen-torch, because the table train.pq has" in refusal(
        tmp_path, kaggle() | {"train.pq": table}
    )


def test_an_unrelated_table_is_ignored(tmp_path: Path) -> None:
    members = kaggle() | {"train_masks.csv": b"subject,img,pixels\n1,1,1 5\n", "sample_submission.csv": b"img,pixels\n"}
    assert find(tmp_path, members).layout == "pairs"
