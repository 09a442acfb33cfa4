"""Row A6 and the pair dialects of `competition.md`."""

import codecs
from pathlib import Path

import pytest
from data_helpers import save_image

from facever.data.pairfiles import read_pairs
from facever.errors import DataError


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder `ver_data` with A.png, B.png, C.png."""
    for i, name in enumerate("ABC"):
        save_image(tmp_path / "ver_data" / f"{name}.png", i)
    return tmp_path / "ver_data"


def write(images: Path, content: str | bytes, name: str = "val_pairs.txt") -> Path:
    file = images.parent / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


SAME_PAIRS = {
    "blanks": "A.png B.png 1\nA.png C.png 0\n",
    "no last line end": "A.png B.png 1\nA.png C.png 0",
    "runs of blanks": "A.png   B.png  1\n  A.png C.png    0  \n",
    "tabs": "A.png\tB.png\t1\nA.png\tC.png\t0\n",
    "tabs and blanks": "A.png \tB.png 1\nA.png C.png 0\n",
    "commas": "A.png,B.png,1\nA.png,C.png,0\n",
    "commas and blanks": "A.png, B.png, 1\nA.png , C.png , 0\n",
    "semicolons": "A.png;B.png;1\nA.png;C.png;0\n",
    "quotes": '"A.png","B.png","1"\n"A.png","C.png","0"\n',
    "quotes and blanks": '"A.png" "B.png" 1\n"A.png" C.png 0\n',
    "header": "left,right,mated\nA.png,B.png,1\nA.png,C.png,0\n",
    "header of S22": "img1,img2,gt\nA.png,B.png,1\nA.png,C.png,0\n",
    "unknown header": "erstes,zweites,gleich\nA.png,B.png,1\nA.png,C.png,0\n",
    "header in another order": "gt,img2,img1\n1,B.png,A.png\n0,C.png,A.png\n",
    "header with an index": ",left,right,label\n0,A.png,B.png,1\n1,A.png,C.png,0\n",
    "words": "A.png B.png True\nA.png C.png False\n",
    "minus one": "A.png B.png 1\nA.png C.png -1\n",
    "leading folder": "ver_data/A.png ver_data/B.png 1\n./ver_data/A.png ./C.png 0\n",
    "CRLF": "A.png B.png 1\r\nA.png C.png 0\r\n",
    "CRLF and commas": "A.png,B.png,1\r\nA.png,C.png,0\r\n",
    "blank lines": "A.png B.png 1\n\nA.png C.png 0\n\n\n  \n",
    "BOM": codecs.BOM_UTF8.decode() + "A.png B.png 1\nA.png C.png 0\n",
    "BOM and header": codecs.BOM_UTF8.decode() + "img1,img2,gt\nA.png,B.png,1\nA.png,C.png,0\n",
}


@pytest.mark.parametrize("dialect", SAME_PAIRS)
def test_every_dialect_gives_the_same_pairs(images: Path, dialect: str) -> None:
    pairs = read_pairs(write(images, SAME_PAIRS[dialect]), images)
    assert pairs.images == ("A.png", "B.png", "C.png")
    assert pairs.left.tolist() == [0, 0]
    assert pairs.right.tolist() == [1, 2]
    assert pairs.mated.tolist() == [1, 0]
    assert pairs.fold.tolist() == [-1, -1]
    assert pairs.root == images.resolve()
    assert pairs.labelled


def test_utf_16_as_spreadsheets_write_it_is_read(images: Path) -> None:
    file = write(images, "A.png\tB.png\t1\r\n".encode("utf-16"))
    assert read_pairs(file, images).mated.tolist() == [1]


def test_two_columns_leave_the_truth_unknown(images: Path) -> None:
    pairs = read_pairs(write(images, "A.png B.png\nC.png B.png\n"), images)
    assert pairs.mated.tolist() == [-1, -1]
    assert not pairs.labelled


def test_rows_are_kept_as_written_because_some_submissions_repeat_them(images: Path) -> None:
    pairs = read_pairs(write(images, "ver_data/A.png B.png 1\n"), images)
    assert pairs.rows == (("ver_data/A.png", "B.png"),)


def test_folds_are_read_from_their_column(images: Path) -> None:
    text = "left,right,mated,fold\nA.png,B.png,1,0\nA.png,C.png,0,3\n"
    assert read_pairs(write(images, text), images).fold.tolist() == [0, 3]


def test_repeated_pairs_are_counted_in_either_order(images: Path) -> None:
    text = "A.png B.png 1\nB.png A.png 1\nA.png B.png 0\nA.png C.png 0\n"
    assert read_pairs(write(images, text), images).repeated() == (2, 1)


WRONG = {
    "label 2": ("A.png B.png 1\nA.png C.png 2\n", "line 2: label '2'.*\n.*expected 1 or True"),
    "label word": ("A.png B.png yes\n", "line 1: label 'yes'"),
    "label half": ("A.png,B.png,1\nA.png,C.png,0.5\n", "line 2: label '0.5'"),
    "empty label": ("A.png,B.png,1\nA.png,C.png,\n", "line 2: label ''"),
    "-1 beside 0": ("A.png B.png 0\nA.png C.png -1\n", "line 2: label '-1'"),
    "missing column": ("A.png B.png 1\n\nA.png C.png\n", "line 3: 2 columns, .* have 3"),
    "extra column": ("A.png B.png 1\nA.png C.png 0 x\n", "line 2: 4 columns, .* have 3"),
    "missing column, CSV": ("img1,img2,gt\nA.png,B.png\n", "line 2: 2 columns, .* have 3"),
    "one column": ("A.png\nB.png\n", "line 1: 1 columns"),
    "four columns": ("A.png B.png C.png 1\n", "line 1: 4 columns"),
    "open quote": ('A.png,B.png,1\n"A.png,C.png,0\n', "line 2: .*\n.*quotes that close"),
    "empty file": ("", "empty file"),
    "blank lines only": ("\n \n", "empty file"),
    "BOM only": (codecs.BOM_UTF8.decode(), "empty file"),
    "header only": ("left,right,mated\n", "a header and no pairs"),
    "not UTF-8": (b"A.png B.png 1\nA.png \xe9.png 0\n", "line 2: byte 0xe9 is not UTF-8"),
    "fold": ("left,right,mated,fold\nA.png,B.png,1,x\n", "line 2: fold 'x'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_row_that_cannot_be_read_is_named_with_its_line(images: Path, case: str) -> None:
    content, message = WRONG[case]
    with pytest.raises(DataError, match=message) as caught:
        read_pairs(write(images, content), images)
    assert "val_pairs.txt" in str(caught.value)


def test_absent_images_are_counted_with_the_first_example(images: Path) -> None:
    text = "A.png B.png 1\nA.png X.png 0\nY.png B.png 0\n"
    with pytest.raises(DataError) as caught:
        read_pairs(write(images, text), images)
    assert str(caught.value) == (
        "val_pairs.txt: 2 of 3 pairs name images that are not in ver_data/\n"
        "  first: X.png (line 2)\n"
        "  expected paths relative to ver_data/; `facever data inspect` lists them all"
    )


@pytest.mark.parametrize("name", ["../secret.png", "ver_data/../../secret.png", "/etc/passwd", ""])
def test_paths_that_leave_the_folder_are_refused(images: Path, name: str) -> None:
    save_image(images.parent / "secret.png")
    text = f'left,right,mated\nA.png,B.png,1\nA.png,"{name}",0\n'
    with pytest.raises(DataError, match=r"line 3: .*(\.\.|absolute|empty name)"):
        read_pairs(write(images, text), images)


def test_links_out_of_the_folder_are_refused(images: Path) -> None:
    (images / "L.png").symlink_to(save_image(images.parent / "secret.png"))
    with pytest.raises(DataError, match=r"L\.png: links out of the data folder"):
        read_pairs(write(images, "A.png L.png 1\n"), images)


def test_links_within_the_folder_are_followed(images: Path) -> None:
    (images / "L.png").symlink_to(images / "A.png")
    assert len(read_pairs(write(images, "B.png L.png 1\n"), images)) == 1


ODD_NAMES = {
    "blank": "my face.png",
    "newline": "two\nlines.png",
    "emoji": "😀.png",
    "leading dash": "-rf.png",
    "quote": 'the "face".png',
    "comma": "a,b.png",
    "non-breaking space": "a\u00a0b.png",
    "255 bytes": "é" * 125 + "x.png",
}


@pytest.mark.parametrize("kind", ODD_NAMES)
def test_odd_file_names_round_trip_through_quoted_csv(images: Path, kind: str) -> None:
    name = ODD_NAMES[kind]
    assert kind != "255 bytes" or len(name.encode()) == 255
    save_image(images / name, 9)
    quoted = name.replace('"', '""')
    text = f'left,right,mated\n"{quoted}",A.png,1\nB.png,"{quoted}",0\n'
    pairs = read_pairs(write(images, text, "val_pairs.csv"), images)
    assert pairs.images == (name, "A.png", "B.png")
    assert pairs.rows[0][0] == name


def test_line_numbers_stay_true_after_a_name_with_a_newline(images: Path) -> None:
    save_image(images / "two\nlines.png", 9)
    text = 'left,right,mated\n"two\nlines.png",A.png,1\nA.png,B.png,2\n'
    with pytest.raises(DataError, match="line 4: label '2'"):
        read_pairs(write(images, text, "val_pairs.csv"), images)


@pytest.mark.parametrize("name", ["-rf.png", "😀.png", "a,b.png", "a\u00a0b.png"])
def test_names_without_blanks_need_no_quotes(images: Path, name: str) -> None:
    save_image(images / name, 9)
    text = f"A.png B.png 1\nA.png C.png 0\n{name} A.png 1\n"
    assert read_pairs(write(images, text), images).images[-1] == name


def test_names_that_differ_in_case_stay_two(images: Path) -> None:
    save_image(images / "a.png", 9)
    pairs = read_pairs(write(images, "A.png a.png 0\n"), images)
    assert pairs.images == ("A.png", "a.png")


# --- LFW --------------------------------------------------------------------------------------


@pytest.fixture
def lfw(tmp_path: Path) -> Path:
    for person in ("Ann_Lee", "Bo_Ray"):
        for i in range(1, 4):
            save_image(tmp_path / person / f"{person}_{i:04d}.jpg", i)
    return tmp_path


def test_lfw_folds_alternate_mated_and_non_mated(lfw: Path) -> None:
    fold = "Ann_Lee\t1\t2\nBo_Ray\t1\t3\nAnn_Lee\t1\tBo_Ray\t2\nBo_Ray\t3\tAnn_Lee\t3\n"
    (lfw / "pairs.txt").write_text("2\t2\n" + fold + fold)
    pairs = read_pairs(lfw / "pairs.txt", lfw)
    assert pairs.mated.tolist() == [1, 1, 0, 0] * 2
    assert pairs.fold.tolist() == [0] * 4 + [1] * 4
    assert pairs.images[pairs.left[3]] == "Bo_Ray/Bo_Ray_0003.jpg"
    assert pairs.images[pairs.right[3]] == "Ann_Lee/Ann_Lee_0003.jpg"


def test_lfw_development_files_have_no_folds(lfw: Path) -> None:
    (lfw / "pairsDevTest.txt").write_text("1\nAnn_Lee\t1\t2\nAnn_Lee\t1\tBo_Ray\t2\n")
    pairs = read_pairs(lfw / "pairsDevTest.txt", lfw)
    assert pairs.mated.tolist() == [1, 0]
    assert pairs.fold.tolist() == [-1, -1]


def test_lfw_pairs_that_do_not_match_their_count_are_refused(lfw: Path) -> None:
    (lfw / "pairs.txt").write_text("10\t300\nAnn_Lee\t1\t2\n")
    with pytest.raises(DataError, match=r"line 1: 1 pairs follow\n.*6000"):
        read_pairs(lfw / "pairs.txt", lfw)


def test_lfw_person_that_is_absent_is_reported_as_a_path(lfw: Path) -> None:
    (lfw / "pairs.txt").write_text("1\nAnn_Lee\t1\t9\nAnn_Lee\t1\tBo_Ray\t2\n")
    with pytest.raises(
        DataError, match=r"1 of 2 .*\n  first: Ann_Lee/Ann_Lee_0009\.jpg \(line 2\)"
    ):
        read_pairs(lfw / "pairs.txt", lfw)
