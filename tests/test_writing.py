"""A file is replaced in one move or not at all, and a path that cannot be written is named before any work is done."""

import pytest

from minigpt2.atomic import check_writable, replacing
from minigpt2.pictures.style import check_picture


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.png"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt):
        with replacing(path) as temporary:
            temporary.write_text("half of the new")
            raise KeyboardInterrupt
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["x.png"]
    with replacing(path) as temporary:
        assert temporary.parent == tmp_path
        temporary.write_text("new")
    assert path.read_text() == "new"


def test_folders_are_made_when_the_file_is(tmp_path):
    path = tmp_path / "new" / "folder" / "x.png"
    check_writable(path)
    check_picture(path)
    assert list(tmp_path.iterdir()) == []  # asking leaves nothing behind
    with replacing(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new"


def test_an_unwritable_path_is_told_by_name(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "x.png", tmp_path / "file" / "new" / "x.png", tmp_path):
        with pytest.raises(OSError, match="cannot write"):
            check_writable(path)
    with pytest.raises(OSError, match="cannot write"), replacing(tmp_path / "file" / "x.png"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("name", ["x.jpeg", "x", "x.png.gif", ".png"])
def test_a_picture_has_one_of_three_kinds(tmp_path, name):
    with pytest.raises(ValueError, match="ends in .png, .pdf, .svg"):
        check_picture(tmp_path / name)
    check_picture(tmp_path / "x.PNG")
