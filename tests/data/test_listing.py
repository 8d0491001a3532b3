"""Lists are made once, and again whenever they might be wrong."""

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from moex.data.listing import Names, remember


@pytest.fixture
def place(tmp_path):
    folder = tmp_path / "place"
    folder.mkdir()
    (folder / "a").touch()
    change(folder, 100)
    return folder


def change(folder, seconds):
    """Lets a folder have changed so many seconds ago."""
    os.utime(folder, (time.time() - seconds,) * 2)


def look_at(place, listings, counter):
    def look(watch):
        watch(str(place))
        counter.append(place)
        return Names.of(sorted(path.name for path in place.iterdir())).arrays("names")

    return list(Names.restore(remember(listings, str(place), look), "names"))


def test_texts_come_back():
    texts = ["n01440764/x.JPEG", "", "ünïcode", os.fsdecode(b"not \xff utf-8"), "z"]
    names = Names.of(texts)
    assert list(names) == [names[i] for i in range(len(names))] == texts
    assert list(Names.of([])) == []


def test_made_once_while_nothing_changes(tmp_path, place):
    looks = []
    assert [look_at(place, tmp_path / "lists", looks) for _ in range(3)] == [["a"]] * 3
    assert len(looks) == 1
    # Of another place it is another list.
    other = tmp_path / "other"
    other.mkdir()
    change(other, 100)
    assert look_at(other, tmp_path / "lists", looks) == []


def test_made_again_when_a_folder_changes(tmp_path, place):
    looks = []
    look_at(place, tmp_path / "lists", looks)
    (place / "b").touch()
    change(place, 50)
    assert look_at(place, tmp_path / "lists", looks) == ["a", "b"]
    assert look_at(place, tmp_path / "lists", looks) == ["a", "b"]
    assert len(looks) == 2


def test_what_has_just_changed_may_change_again_at_the_same_time(tmp_path, place):
    """A clock with long ticks would show no difference."""
    looks = []
    change(place, 0.5)
    for _ in range(2):
        look_at(place, tmp_path / "lists", looks)
    assert len(looks) == 2
    assert not list((tmp_path / "lists").glob("*.npz"))


def test_changed_while_it_was_looked_at(tmp_path, place):
    """The state before the look is what counts."""
    looks = []

    def look(watch):
        watch(str(place))
        looks.append(place)
        (place / f"new{len(looks)}").touch()
        change(place, 90 - len(looks))
        return {}

    for _ in range(2):
        remember(tmp_path / "lists", "key", look)
    assert len(looks) == 2


DAMAGES = {
    "empty": lambda content: b"",
    "truncated": lambda content: content[:-100],
    "a flipped bit": lambda content: content.replace(b"first", b"fIrst"),
    "another file": lambda content: b"PK\x03\x04 nothing",
    "a pickle": lambda content: __import__("pickle").dumps(np.array([object()])),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_list_is_made_again(tmp_path, place, damage):
    looks = []
    (place / "first").touch()
    change(place, 100)
    look_at(place, tmp_path / "lists", looks)
    (path,) = (tmp_path / "lists").glob("*.npz")
    path.write_bytes(damage(path.read_bytes()))
    assert look_at(place, tmp_path / "lists", looks) == ["a", "first"]
    assert len(looks) == 2
    assert look_at(place, tmp_path / "lists", looks) == ["a", "first"]
    assert len(looks) == 2


def test_where_nothing_can_be_kept(tmp_path, place):
    """A file is where the folder of lists would be: nobody may write there, whoever runs this."""
    (tmp_path / "lists").touch()
    looks = []
    for _ in range(2):
        assert look_at(place, tmp_path / "lists", looks) == ["a"]
    assert len(looks) == 2


def test_an_error_is_not_kept(tmp_path, place):
    def look(watch):
        watch(str(place))
        raise ValueError("links lead out of it")

    for _ in range(2):
        with pytest.raises(ValueError, match="lead out"):
            remember(tmp_path / "lists", "key", look)


def test_of_several_that_want_it_one_looks(tmp_path, place):
    looks, ready = [], threading.Barrier(4)

    def want(_):
        ready.wait()
        return look_at(place, tmp_path / "lists", looks)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(want, range(4))) == [["a"]] * 4
    assert len(looks) == 1
