"""Files are replaced in one move, by many writers and through links; what is damaged is one sentence."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from PIL import Image

from s4s_nb import atomic
from s4s_nb.atomic import check_writable, replace_file
from s4s_nb.errors import InputError
from s4s_nb.files import read_json, read_safetensors, write_json, write_safetensors
from s4s_nb.pictures import save_samples

posix = pytest.mark.skipif(sys.platform == "win32", reason="of POSIX")
ROOT = Path(__file__).resolve().parent.parent


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ---------------------------------------------------------------- writers


def test_writers_of_one_file_do_not_meet(tmp_path, monkeypatch):
    """Also in two containers, where both have the same process id."""
    monkeypatch.setattr(os, "getpid", lambda: 1)
    path = tmp_path / "a.json"

    def write(temporary: Path) -> None:
        temporary.write_text("first")
        replace_file(path, lambda p: p.write_text("second"))
        assert path.read_text() == "second" and temporary.read_text() == "first"

    replace_file(path, write)
    assert path.read_text() == "first" and names(tmp_path) == ["a.json"]


WRITER = """
import sys, time
from s4s_nb.atomic import replace_file

def write(temporary):
    temporary.write_text("half")
    print("writing", flush=True)
    time.sleep(600)

replace_file(sys.argv[1], write)
"""


@posix
def test_what_a_killed_writer_left_goes_and_a_living_one_is_left_alone(tmp_path):
    path = tmp_path / "a.json"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", WRITER, str(path)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout and writer.stdout.readline() == "writing\n"
        write_json(path, 1)
        temporary, _ = names(tmp_path)
        assert (tmp_path / temporary).read_text() == "half"
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    write_json(tmp_path / "b.json", 1)
    assert temporary in names(tmp_path), "it is another file's"
    write_json(path, 2)
    assert names(tmp_path) == ["a.json", "b.json"] and read_json(path) == 2


def test_without_locks_only_old_temporary_files_go(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic, "fcntl", None)
    old, new, other = (
        tmp_path / f".a.json.{k * 16}{end}" for k, end in [("0", ".tmp"), ("1", ".tmp"), ("2", "")]
    )
    for path in (old, new, other):
        path.touch()
    os.utime(old, (0, 0))
    os.utime(other, (0, 0))
    write_json(tmp_path / "a.json", 1)
    assert names(tmp_path) == sorted([new.name, other.name, "a.json"])


def test_the_file_is_on_the_disk_before_its_name_is(tmp_path, monkeypatch):
    done = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda f: (done.append(os.path.isdir(f"/dev/fd/{f}")), sync(f)))
    monkeypatch.setattr(os, "replace", lambda a, b: (done.append("renamed"), replace(a, b)))
    write_json(tmp_path / "a.json", 1)
    assert done[:2] == [False, "renamed"]
    if sys.platform == "linux":
        assert done == [False, "renamed", True]


@posix
def test_permissions_are_those_of_any_new_file(tmp_path):
    before = os.umask(0o027)
    try:
        write_json(tmp_path / "a.json", 1)
        write_safetensors(tmp_path / "a.safetensors", {"x": torch.ones(2)}, {})
        save_samples(tmp_path / "a.png", torch.zeros(1, 1, 4, 4))
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o640}


@posix
def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    for name in ("there.json", "not_yet.json"):
        link = tmp_path / name
        link.symlink_to(Path("real") / name)
        write_json(link, {"name": name})
        assert link.is_symlink() and read_json(tmp_path / "real" / name) == {"name": name}
    assert names(tmp_path / "real") == ["not_yet.json", "there.json"]
    loop = tmp_path / "loop.json"
    loop.symlink_to(loop)
    with pytest.raises(InputError, match="cannot be written"):
        write_json(loop, 1)
    assert loop.is_symlink()


@pytest.mark.parametrize("kind", [str, os.fsencode, Path], ids="str bytes Path".split())
@pytest.mark.parametrize("name", ["a b.json", "größe→.json", "x" * 250 + ".json", "ä" * 120 + ".json"])
def test_paths_of_any_kind(tmp_path, kind, name):
    path = kind(tmp_path / name)
    write_json(path, [1])
    write_json(path, [2])
    assert read_json(path) == [2] and names(tmp_path) == [name]
    write_safetensors(path, {"x": torch.ones(2)}, {"a": "b"})
    assert read_safetensors(path)[1] == {"a": "b"}


@pytest.fixture(params=["folder", "fifo", "device"])
def special(request, tmp_path) -> Path:
    """What is no ordinary file; reading of a FIFO would wait for ever."""
    path = tmp_path / "special"
    if request.param == "folder":
        path.mkdir()
    elif sys.platform == "win32":
        pytest.skip("of POSIX")
    elif request.param == "fifo":
        os.mkfifo(path)
    else:
        path = Path("/dev/null")
    return path


def test_only_ordinary_files_are_written_and_read(special):
    before = special.stat()
    for call in (lambda p: write_json(p, 1), read_json, read_safetensors, check_writable):
        with pytest.raises(InputError, match="name a file|name an ordinary file"):
            call(special)
    assert special.stat().st_mode == before.st_mode


@posix
def test_a_full_disk_is_a_sentence_and_keeps_the_old_file(tmp_path):
    import resource

    path = tmp_path / "a.json"
    write_json(path, "old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        for call in (
            lambda: write_json(path, "x" * 100_000),
            lambda: write_safetensors(path, {"x": torch.ones(100_000)}, {}),
            lambda: save_samples(path, torch.rand(400, 3, 16, 16)),
        ):
            with pytest.raises(InputError, match=r"a\.json cannot be written \("):
                call()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert read_json(path) == "old" and names(tmp_path) == ["a.json"]


def test_a_parent_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("x")
    for call in (check_writable, lambda p: write_json(p, 1)):
        with pytest.raises(InputError, match="cannot be written"):
            call(tmp_path / "file" / "below" / "a.json")
    assert names(tmp_path) == ["file"]


# ---------------------------------------------------------------- the check before the work


def test_the_check_leaves_nothing_behind_and_follows_what_writing_does(tmp_path, monkeypatch):
    deep = tmp_path / "new" / "folder" / "a.json"
    check_writable(deep, tmp_path / "b.json", None)
    assert names(tmp_path) == []
    write_json(deep, 1)
    check_writable(deep)
    with pytest.raises(InputError, match="written twice"):
        check_writable(deep, tmp_path / "new" / "other" / ".." / "folder" / "a.json")
    with pytest.raises(InputError, match="cannot be written"):
        check_writable(tmp_path / ("x" * 300))
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write what is read-only
    with pytest.raises(InputError, match="read-only"):
        check_writable(deep)


# ---------------------------------------------------------------- JSON


def test_json_has_null_for_what_is_not_finite(tmp_path):
    path = tmp_path / "rows.json"
    rows = [{"a": float("nan"), "b": (1.5, float("inf"))}, {"a": 2.0, "b": [-float("inf"), 0]}]
    write_json(path, rows)
    assert json.loads(path.read_text(), parse_constant=pytest.fail) == [
        {"a": None, "b": [1.5, None]},
        {"a": 2.0, "b": [None, 0]},
    ]
    column = pd.read_json(path)["a"]
    assert column.isna().tolist() == [True, False] and column.tolist()[1] == 2.0


def test_json_of_a_path_that_is_no_utf8_can_be_read(tmp_path):
    name = os.fsdecode(b"caf\xe9.safetensors") if sys.platform != "win32" else "caf\udce9"
    write_json(tmp_path / "a.json", {"file": name, "word": "é"})
    (tmp_path / "a.json").read_bytes().decode("utf-8")
    assert read_json(tmp_path / "a.json") == {"file": name, "word": "é"}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"a": 1',
        b'{"a": NaN}',
        b"[-Infinity]",
        b'"caf\xe9"',
        b"[" * 100_000,
        b"\xff\xfe{\x00}\x00",
        b"{'a': 1}",
    ],
    ids="empty cut nan infinity latin-1 deep utf-16 python".split(),
)
def test_what_is_no_json_is_one_sentence(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(InputError, match="damaged or no JSON") as caught:
        read_json(tmp_path / "a.json")
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="no file"):
        read_json(tmp_path / "gone.json")


# ---------------------------------------------------------------- safetensors


def test_no_damage_of_a_safetensors_file_is_more_than_a_sentence(tmp_path):
    """Cut anywhere, or with one byte of its header turned; then it may be whole by chance."""
    path = tmp_path / "a.safetensors"
    write_safetensors(path, {"x": torch.ones(2, 3), "y": torch.arange(3)}, {"name": "ä"})
    whole = path.read_bytes()
    header = len(whole) - 2 * 3 * 4 - 3 * 8
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match="damaged or no safetensors"):
            read_safetensors(path)
    for place in range(header):
        for value in (whole[place] ^ 1, whole[place] ^ 16, 0):
            path.write_bytes(whole[:place] + bytes([value]) + whole[place + 1 :])
            try:
                read_safetensors(path)
            except InputError as error:
                assert "damaged" in str(error)


def test_pictures_are_pictures(tmp_path):
    save_samples(tmp_path / "a.png", torch.rand(12, 3, 8, 8) * 2 - 1)
    assert Image.open(tmp_path / "a.png").size == (2 + 10 * 66, 2 + 2 * 66)  # each enlarged to 64 px
