"""Which files are frames to predict."""

from nerveseg.prediction.inputs import select
from nerveseg.storage import Entry


def test_a_frame_whose_mask_would_leave_the_output_is_left_out() -> None:
    names = ("1.png", "../2.png", "a/../../3.png", "/4.png")  # S3 has such keys
    entries, refused = select([Entry(name, "stamp") for name in names], "s3://bucket/frames")
    assert [entry.name for entry in entries] == ["1.png"]
    assert {name for name, _ in refused} == {"../2.png", "a/../../3.png", "/4.png"}
    assert all("leads out of the folder" in reason for _, reason in refused)
