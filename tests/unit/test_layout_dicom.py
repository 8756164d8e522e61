"""DICOM files with their masks, as they are listed and read."""

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel
import nrrd
import numpy as np
import pytest
from pydicom.uid import UID, BasicTextSRStorage

from dataset_zips import HEIGHT, WIDTH, frame, image, mask, write_zip
from dicom_files import general, regions, segmented, segmented_cine, ultrasound, written
from listed import PNG, SHIPPED, find, kinds, refusal
from nerveseg.data.archive import Archive, UnfitImageError
from nerveseg.data.layouts import detect
from nerveseg.data.layouts.dataset import Choices
from nerveseg.errors import NervesegError
from nerveseg.settings import settings

CINE = np.stack([frame(1), frame(2), frame(3)])
MASKS = np.stack([mask(30), mask(0), mask(70)])
OTHERS = np.stack([np.flipud(each) for each in (mask(10), mask(10), mask(0))])


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("NERVESEG_IDENTITY_KEY", "a key of the tests")
    settings.cache_clear()
    yield
    settings.cache_clear()


def masks(tmp_path: Path, members: dict[str, bytes], layout: str = "auto", **choices: Any) -> list[np.ndarray]:
    """The masks of the frames, by their order."""
    with Archive(write_zip(tmp_path / "a.zip", members)) as archive:
        dataset = detect.find(archive, layout, Choices(choices.get("classes"), SHIPPED.mask_suffixes))
        read = [(record.frame.read(archive).pixels, record.mask) for record in dataset.records]
        return [found.read(archive, pixels).pixels for pixels, found in read if found]


def unfit(tmp_path: Path, members: dict[str, bytes], **choices: Any) -> tuple[str, str]:
    """The kind and the words of the error that reading the masks raises."""
    with pytest.raises(UnfitImageError) as error:
        masks(tmp_path, members, **choices)
    return error.value.kind, str(error.value)


def errors(tmp_path: Path, members: dict[str, bytes], **choices: Any) -> list[tuple[str, str]]:
    """Kind and words of the errors of listing."""
    dataset = find(tmp_path, members, **choices)
    return [(finding.kind, finding.detail) for finding in dataset.findings if finding.severity == "error"]


def nifti(volume: np.ndarray, suffix: str = ".nii.gz") -> bytes:
    """A label volume (frames, height, width) as ITK-SNAP writes it."""
    found = nibabel.Nifti1Image(volume.T, np.diag([-1, -1, 1, 1]))
    return gzip.compress(found.to_bytes()) if suffix == ".nii.gz" else found.to_bytes()


def nrrd_file(tmp_path: Path, volume: np.ndarray, **header: Any) -> bytes:
    """A label volume (frames, height, width), or (layers, frames, height, width), as 3D Slicer writes it."""
    path = tmp_path / "written.nrrd"
    nrrd.write(str(path), volume.swapaxes(-1, -3) if volume.ndim == 4 else volume.T, header)
    return path.read_bytes()


def test_a_segmentation_by_highdicom_gives_its_file_the_mask(tmp_path: Path) -> None:
    first, second = ultrasound(frame(1), 1), ultrasound(frame(2), 2)
    members = {
        "no suffix": first,
        "2.dcm": second,
        "seg/1": segmented(first, mask(30)[..., np.newaxis]),
        "seg/2": segmented(second, mask(70)[..., np.newaxis]),
    }
    dataset = find(tmp_path, members)
    assert dataset.layout == "dicom"
    assert dataset.findings == []
    assert len({record.subject for record in dataset.records}) == 1
    assert sorted(found.sum() for found in masks(tmp_path, members)) == [30, 70]


def test_a_cine_keeps_its_frames_in_order_and_what_a_segmentation_leaves_out_is_empty(tmp_path: Path) -> None:
    source = ultrasound(CINE)
    members = {"cine": source, "seg": segmented_cine(source, MASKS[..., np.newaxis])}
    np.testing.assert_array_equal(masks(tmp_path, members), MASKS)
    dataset = find(tmp_path, members)
    assert [finding.kind for finding in dataset.findings] == ["omitted frames"]
    assert dataset.findings[0].detail.startswith("1 frames of 1 DICOM files")
    names = [record.image for record in dataset.records]
    assert [name.rpartition("_")[2] for name in names] == ["0001.dcm", "0002.dcm", "0003.dcm"]
    whole = {"cine": source, "seg": segmented_cine(source, MASKS[..., np.newaxis], keep_empty=True)}
    assert find(tmp_path, whole).findings == []
    np.testing.assert_array_equal(masks(tmp_path, whole), MASKS)


def test_segments_are_chosen_by_their_labels(tmp_path: Path) -> None:
    source = ultrasound(CINE)
    both = np.stack([MASKS, OTHERS], axis=3)
    members = {"cine": source, "seg": segmented_cine(source, both, labels=("nerve", "artery"))}
    ((kind, detail),) = errors(tmp_path, members)
    assert kind == "several classes"
    assert "nerve (2 masks), artery (2 masks)" in detail
    np.testing.assert_array_equal(masks(tmp_path, members, classes=["nerve"]), MASKS)
    np.testing.assert_array_equal(masks(tmp_path, members, classes=["artery"]), OTHERS)
    np.testing.assert_array_equal(masks(tmp_path, members, classes=["nerve", "artery"]), MASKS | OTHERS)
    assert "data.classes has vein" in refusal(tmp_path, members, classes=["vein"])


def test_values_of_mask_images_are_chosen(tmp_path: Path) -> None:
    members = {"a.dcm": ultrasound(frame(1)), "a_mask.png": image(MASKS[0] + 2 * OTHERS[0], "png")}
    assert unfit(tmp_path, members)[0] == "mask values"
    np.testing.assert_array_equal(masks(tmp_path, members, classes=[2])[0], OTHERS[0])
    assert find(tmp_path, members, classes=[2]).mask_values == (2,)


def test_masks_that_do_not_have_the_class_are_not_taken_for_it(tmp_path: Path) -> None:
    source, other = ultrasound(frame(1)), ultrasound(frame(2), 2)
    both = np.stack([MASKS[0], OTHERS[0]], axis=2)
    members = {"a.dcm": source, "a": segmented(source, both, labels=("nerve", "artery")), "b.dcm": other}
    drawn = find(tmp_path, members | {"b_mask.png": image(MASKS[0], "png")}, classes=["nerve"])
    assert ("error", "missing class", "file 1 of 4") in kinds(drawn)
    volume = find(tmp_path, members | {"b.nii": nifti(MASKS[:1], ".nii")}, classes=["nerve"])
    assert kinds(volume) == [("warning", "no mask of the class", "file 4 of 4")]
    assert volume.classes == {"nerve": 1, "artery": 1}


def test_fractions_are_nerve_from_a_half_up(tmp_path: Path) -> None:
    source = ultrasound(frame(1))
    fractions = np.linspace(0, 1, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH, 1)
    seg = segmented(source, fractions, segmentation_type="FRACTIONAL", max_fractional_value=200)
    (found,) = masks(tmp_path, {"a": source, "seg": seg})
    np.testing.assert_array_equal(found, np.rint(fractions[..., 0] * 200) >= 100)


def test_label_maps_are_read(tmp_path: Path) -> None:
    source = ultrasound(frame(1))
    both = np.stack([MASKS[0], OTHERS[0]], axis=2)
    seg = segmented(source, both, labels=("nerve", "artery"), segmentation_type="LABELMAP")
    members = {"a": source, "seg": seg}
    assert [kind for kind, _ in errors(tmp_path, members)] == ["several classes"]
    np.testing.assert_array_equal(masks(tmp_path, members, classes=["artery"])[0], OTHERS[0])


def test_segmentations_that_fit_no_file_or_contradict_each_other_are_errors(tmp_path: Path) -> None:
    source, other = ultrasound(CINE), ultrasound(CINE, 2)
    seg = segmented_cine(source, MASKS[..., np.newaxis])
    assert [kind for kind, _ in errors(tmp_path, {"2": other, "seg": seg})] == ["missing frame"]
    shorter = ultrasound(CINE[:2])
    assert [kind for kind, _ in errors(tmp_path, {"1": shorter, "seg": seg})] == ["missing frame"]
    second = segmented_cine(source, OTHERS[..., np.newaxis], number=201)
    ((kind, detail),) = errors(tmp_path, {"1": source, "seg": seg, "seg2": second})
    assert (kind, "both the segment nerve" in detail) == ("several masks", True)
    third = segmented_cine(source, OTHERS[..., np.newaxis], labels=["artery"], number=201)
    found = masks(tmp_path, {"1": source, "seg": seg, "seg2": third}, classes=["nerve", "artery"])
    np.testing.assert_array_equal(found, MASKS | OTHERS)
    larger = ultrasound(np.pad(CINE, ((0, 0), (0, 2), (0, 0))))
    assert unfit(tmp_path, {"1": larger, "seg": seg})[0] == "size mismatch"


def test_mask_images_belong_to_the_file_of_their_name(tmp_path: Path) -> None:
    members = {"x/a.dcm": ultrasound(frame(1)), "x/a_mask.png": image(mask(30) * 255, "png")}
    members |= {"x/cine.dcm": ultrasound(CINE, 2), "masks/cine_0001_mask.png": image(mask(40) * 255, "png")}
    members |= {"masks/cine_3_SEG.PNG": image(mask(50) * 255, "png")}
    assert sorted(found.sum() for found in masks(tmp_path, members)) == [30, 40, 50]
    dataset = find(tmp_path, members)
    assert kinds(dataset) == [("warning", "unlabelled frames", dataset.findings[0].image)]
    assert dataset.findings[0].detail == "1 frames of 1 DICOM files have no mask and are skipped"


@pytest.mark.parametrize(
    ("mask_names", "kind"),
    [
        (["b_mask.png"], "missing frame"),
        (["cine_mask.png"], "missing frame"),
        (["cine_0_mask.png"], "missing frame"),
        (["cine_4_mask.png"], "missing frame"),
        (["cine_1_mask.png", "cine_01_mask.png"], "several masks"),
        (["cine_1_mask.png", "cine.nii"], "several masks"),
        (["cine.nii", "cine.seg.nrrd"], "several masks"),
        (["a_1_mask.png"], "missing frame"),
    ],
)
def test_masks_that_could_be_of_another_frame_are_errors(tmp_path: Path, mask_names: list[str], kind: str) -> None:
    members = {"cine.dcm": ultrasound(CINE, 2), **dict.fromkeys(mask_names, PNG)}
    if mask_names == ["a_1_mask.png"]:
        members |= {"a.dcm": ultrasound(CINE, 3), "a_1.dcm": ultrasound(frame(1), 4)}
    assert [found for found, _ in errors(tmp_path, members)] == [kind]


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_nifti_volumes_have_a_slice_for_each_frame(tmp_path: Path, suffix: str) -> None:
    members = {"a/cine.dcm": ultrasound(CINE), f"b/cine{suffix}": nifti(MASKS, suffix)}
    assert find(tmp_path, members).findings == []
    np.testing.assert_array_equal(masks(tmp_path, members), MASKS)
    single = {"s.dcm": ultrasound(frame(1)), f"s{suffix}": nifti(MASKS[0].astype(np.int16), suffix)}
    np.testing.assert_array_equal(masks(tmp_path, single), MASKS[:1])


def test_nifti_of_other_byte_order_and_version_is_read(tmp_path: Path) -> None:
    big = nibabel.Nifti1Image(MASKS.T.astype(">i2"), np.eye(4), nibabel.Nifti1Header(endianness=">"))
    second = nibabel.Nifti2Image(MASKS.T, np.eye(4))
    for image_file in (big, second):
        members = {"cine.dcm": ultrasound(CINE), "cine.nii": image_file.to_bytes()}
        np.testing.assert_array_equal(masks(tmp_path, members), MASKS)


def test_labels_are_chosen_by_their_values(tmp_path: Path) -> None:
    members = {"cine.dcm": ultrasound(CINE), "cine.nii.gz": nifti(MASKS + 2 * OTHERS)}
    kind, words = unfit(tmp_path, members)
    assert kind == "several classes"
    assert "the labels 1, 2" in words
    np.testing.assert_array_equal(masks(tmp_path, members, classes=[1]), MASKS)
    np.testing.assert_array_equal(masks(tmp_path, members, classes=[1, 2]), MASKS | OTHERS)
    assert "data.classes has 7" in refusal(tmp_path, members, classes=[7])


def test_segments_of_slicer_are_chosen_by_their_names(tmp_path: Path) -> None:
    header = {"Segment0_Name": "nerve", "Segment0_LabelValue": "1", "Segment0_Layer": "0"}
    header |= {"Segment1_Name": "artery", "Segment1_LabelValue": "2", "Segment1_Layer": "0"}
    content = nrrd_file(tmp_path, MASKS + 2 * OTHERS, **header)
    members = {"cine.dcm": ultrasound(CINE), "cine.seg.nrrd": content}
    assert "the labels artery, nerve" in unfit(tmp_path, members)[1]
    np.testing.assert_array_equal(masks(tmp_path, members, classes=["artery"]), OTHERS)
    assert "there are artery, nerve" in refusal(tmp_path, members, classes=[1])
    del header["Segment1_Name"]
    members["cine.seg.nrrd"] = nrrd_file(tmp_path, MASKS + 2 * OTHERS, **header)
    assert unfit(tmp_path, members)[0] == "mask values"


def test_overlapping_segments_of_slicer_lie_in_layers(tmp_path: Path) -> None:
    header = {"Segment0_Name": "nerve", "Segment0_LabelValue": "1", "Segment0_Layer": "0"}
    header |= {"Segment1_Name": "sheath", "Segment1_LabelValue": "1", "Segment1_Layer": "1"}
    layers = np.stack([MASKS, MASKS | OTHERS])
    content = nrrd_file(tmp_path, layers, kinds=["list", "domain", "domain", "domain"], **header)
    members = {"cine.dcm": ultrasound(CINE), "cine.seg.nrrd": content}
    np.testing.assert_array_equal(masks(tmp_path, members, classes=["nerve"]), MASKS)
    np.testing.assert_array_equal(masks(tmp_path, members, classes=["sheath"]), MASKS | OTHERS)


def test_volumes_of_another_size_or_content_are_errors(tmp_path: Path) -> None:
    def found(content: bytes, suffix: str = ".nii") -> tuple[str, str]:
        return unfit(tmp_path, {"cine.dcm": ultrasound(CINE), f"cine{suffix}": content})

    assert found(nifti(MASKS.swapaxes(1, 2), ".nii"))[0] == "size mismatch", "rows for columns"
    assert found(nifti(MASKS[:2], ".nii"))[0] == "size mismatch"
    assert found(nifti(MASKS * np.float32(0.5), ".nii"))[0] == "mask values"
    assert found(b"no volume")[0] == "unreadable"
    assert found(nifti(MASKS)[:100], ".nii.gz")[0] == "unreadable"
    assert "labels are few" in found(nifti(np.arange(MASKS.size, dtype=np.int16).reshape(MASKS.shape), ".nii"))[1]
    detached = b"NRRD0004\ntype: uint8\ndimension: 3\nsizes: 50 40 3\nencoding: raw\ndata file: /etc/passwd\n\n"
    assert "without its data" in found(detached, ".nrrd")[1]


def test_a_volume_that_inflates_without_end_is_refused(tmp_path: Path) -> None:
    header = b"NRRD0004\ntype: uint8\ndimension: 3\nsizes: 50 40 3\nencoding: gzip\n\n"
    packer, zeros = zlib.compressobj(wbits=zlib.MAX_WBITS | 16), bytes(2**22)
    parts = [packer.compress(zeros) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(2)]
    bomb = header + parts[0] + 70 * parts[1]
    assert unfit(tmp_path, {"cine.dcm": ultrasound(CINE), "cine.nrrd": bomb})[0] == "too large"


def test_the_region_is_cropped_out_of_frame_and_mask(tmp_path: Path) -> None:
    inner = {"RegionLocationMinX0": 4, "RegionLocationMinY0": 3, "RegionLocationMaxX1": 43, "RegionLocationMaxY1": 38}
    source = ultrasound(CINE, SequenceOfUltrasoundRegions=regions(inner))
    for members in ({"seg": segmented_cine(source, MASKS[..., np.newaxis])}, {"c.nii": nifti(MASKS, ".nii")}):
        found = masks(tmp_path, {"c.dcm": source} | members)
        np.testing.assert_array_equal(found, MASKS[:, 3:39, 4:44])
    dataset = find(tmp_path, {"c.dcm": source, "c.nii": nifti(MASKS, ".nii")})
    assert dataset.records[0].spacing_mm == pytest.approx((0.2, 0.1))


def test_people_places_and_scanners(tmp_path: Path) -> None:
    members: dict[str, bytes] = {}
    people = [("P1", "Ulm"), ("P1", "Bonn"), ("P2", ""), ("p2", "")]
    for number, (patient, place) in enumerate(people, start=1):
        members[f"{number}.dcm"] = ultrasound(frame(number), number, patient, InstitutionName=place)
        members[f"{number}_mask.png"] = image(mask() * 255, "png")
    dataset = find(tmp_path, members)
    assert len({record.subject for record in dataset.records}) == 3
    sites = {record.site for record in dataset.records}
    assert "Acme Sono 3" in sites
    assert len([site for site in sites if site.startswith("site-")]) == 2
    assert [finding.kind for finding in dataset.findings] == ["identifiers in tags", "similar subjects"]


def test_names_depend_on_the_key_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members = {"1.dcm": ultrasound(frame(1)), "1_mask.png": PNG}
    moved = {f"other/{name}": content for name, content in members.items()}
    (first,), (same,) = (find(tmp_path, files).records for files in (members, moved))
    assert (same.image, same.subject) == (first.image, first.subject)
    monkeypatch.setenv("NERVESEG_IDENTITY_KEY", "another key of the tests")
    settings.cache_clear()
    (other,) = find(tmp_path, members).records
    assert other.subject != first.subject
    assert other.image.split("_")[1] != first.image.split("_")[1]


def test_without_a_key_nothing_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NERVESEG_IDENTITY_KEY")
    settings.cache_clear()
    text = refusal(tmp_path, {"1.dcm": ultrasound(frame(1)), "1_mask.png": PNG})
    assert "Set NERVESEG_IDENTITY_KEY" in text
    monkeypatch.setenv("NERVESEG_IDENTITY_KEY", "short")
    settings.cache_clear()
    assert "use at least 16 characters, such as" in refusal(tmp_path, {"1.dcm": ultrasound(frame(1))})


@pytest.mark.parametrize(("said", "words"), [("YES", "text is burned into"), (None, "do not say"), ("NO", None)])
def test_burned_in_text_is_flagged(tmp_path: Path, said: str | None, words: str | None) -> None:
    members = {"1.dcm": ultrasound(frame(1), BurnedInAnnotation=said), "1_mask.png": PNG}
    found = [finding.detail for finding in find(tmp_path, members).findings if finding.kind == "burned-in annotation"]
    assert (words is None and not found) or words in found[0]


def test_two_files_with_one_uid_are_an_error_and_other_files_are_counted(tmp_path: Path) -> None:
    members = {"1.dcm": ultrasound(frame(1)), "1_mask.png": PNG, "readme": b"hello", "picture.png": PNG}
    report = general(5, "P1")
    report.SOPClassUID = UID(BasicTextSRStorage)
    members |= {"sr.dcm": written(report)}
    dataset = find(tmp_path, members)
    assert [(finding.kind, finding.detail.split()[0]) for finding in dataset.findings] == [("ignored file", "3")]
    twice = members | {"again.dcm": members["1.dcm"]}
    assert ("error", "duplicate name") in [kind[:2] for kind in kinds(find(tmp_path, twice))]


def test_frames_without_any_mask_are_refused(tmp_path: Path) -> None:
    assert "a mask of none" in refusal(tmp_path, {"1.dcm": ultrasound(frame(1))})


def test_beside_other_layouts_it_is_chosen_by_name(tmp_path: Path) -> None:
    members = {
        "1.dcm": ultrasound(frame(1)),
        "1_mask.tif": image(mask() * 255),
        "t.csv": b"image,rle_mask\n1.tif,1 5\n",
    }
    text = refusal(tmp_path, members)
    assert "fits several layouts: dicom, because it has DICOM" in text
    assert "hydrogen-torch, because of what its files are called or hold" in text
    assert len(masks(tmp_path, members, layout="dicom")) == 1
    text = refusal(tmp_path, members, layout="nnunet")
    assert "3 files, whose names are not shown" in text
    with pytest.raises(NervesegError, match="does not have the layout dicom"):
        find(tmp_path, {"1.png": PNG}, layout="dicom")
