from __future__ import annotations

import hashlib
import stat
from pathlib import Path

import pytest

from tests.fakes import FakeClock
from webapp import api_keys
from webapp.api_keys import KeyFileError, KeyRing, Priorities, Role


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys" / "api_keys"


def test_a_key_is_random_long_and_kept_as_a_hash_only(path: Path) -> None:
    key, other = api_keys.add(path, "alice"), api_keys.add(path, "bob")
    assert key.startswith("sk-celerity-")
    assert len(key) > 50
    assert key != other
    text = path.read_text()
    assert key not in text
    assert hashlib.sha256(key.encode()).hexdigest() in text
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]
    assert [entry.name for entry in api_keys.read(path)] == ["alice", "bob"]


@pytest.mark.parametrize("name", ["", "a b", "x" * 65, "a\nb", "#a", "\u00e9"])
def test_a_name_is_plain(path: Path, name: str) -> None:
    with pytest.raises(KeyFileError):
        api_keys.add(path, name)


def test_a_name_is_given_once(path: Path) -> None:
    api_keys.add(path, "alice")
    with pytest.raises(KeyFileError, match="already"):
        api_keys.add(path, "alice")


def test_a_key_can_be_taken_away(path: Path) -> None:
    api_keys.add(path, "alice")
    bob = api_keys.add(path, "bob")
    api_keys.remove(path, "alice")
    assert [entry.name for entry in api_keys.read(path)] == ["bob"]
    assert KeyRing(path).name_of(bob) == "bob"
    with pytest.raises(KeyFileError, match="no key"):
        api_keys.remove(path, "alice")
    with pytest.raises(KeyFileError, match="does not exist"):
        api_keys.remove(path.with_name("none"), "alice")


def test_a_line_is_added_to_a_file_that_does_not_end_in_one(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("# ours")
    api_keys.add(path, "alice")
    assert path.read_text().startswith("# ours\nalice ")


@pytest.mark.parametrize(
    "line",
    [
        "alice",
        "alice abc now",
        f"alice {'g' * 64} now",
        f"a/b {'0' * 64} now",
        f"alice {'0' * 64} now more",
        f"a {'0' * 64} now user x",
    ],
)
def test_a_wrong_line_is_named(path: Path, line: str) -> None:
    path.parent.mkdir()
    path.write_text(f"# comment\n\n{line}\n")
    with pytest.raises(KeyFileError, match="line 3"):
        api_keys.read(path)


def test_a_key_has_a_role_and_an_older_file_has_users(path: Path) -> None:
    path.parent.mkdir()
    path.write_text(f"old {'0' * 64} now\n")
    user, operator = api_keys.add(path, "alice"), api_keys.add(path, "root", Role.OPERATOR)
    assert {entry.name: entry.role for entry in api_keys.read(path)} == {
        "old": Role.USER,
        "alice": Role.USER,
        "root": Role.OPERATOR,
    }
    assert [len(line.split()) for line in path.read_text().splitlines()] == [3, 3, 4]
    ring = KeyRing(path)
    found = [ring.entry_of(key) for key in (user, operator, "other")]
    assert [entry and entry.role for entry in found] == [Role.USER, Role.OPERATOR, None]


def test_a_role_that_is_none_is_named(path: Path) -> None:
    path.parent.mkdir()
    path.write_text(f"alice {'0' * 64} now king\n")
    with pytest.raises(KeyFileError, match="line 1: the role is 'king'; it can be user or operator"):
        api_keys.read(path)


def test_a_line_says_no_more_than_an_older_gateway_can_read(path: Path) -> None:
    path.parent.mkdir()
    path.write_text(f"old {'0' * 64} now\nroot {'1' * 64} now operator\nterse {'2' * 64} now bulk\n")
    api_keys.add(path, "alice")
    api_keys.add(path, "chat", priorities=Priorities.INTERACTIVE)
    api_keys.add(path, "night", Role.OPERATOR, Priorities.BULK)
    assert {entry.name: (entry.role, entry.priorities) for entry in api_keys.read(path)} == {
        "old": (Role.USER, Priorities.ANY),
        "root": (Role.OPERATOR, Priorities.ANY),
        "terse": (Role.USER, Priorities.BULK),
        "alice": (Role.USER, Priorities.ANY),
        "chat": (Role.USER, Priorities.INTERACTIVE),
        "night": (Role.OPERATOR, Priorities.BULK),
    }
    assert [line.split()[3:] for line in path.read_text().splitlines()] == [
        [],
        ["operator"],
        ["bulk"],
        [],
        ["user", "interactive"],
        ["operator", "bulk"],
    ]


@pytest.mark.parametrize(
    ("rights", "wrong"),
    [
        ("user night", "the priorities are 'night'; they can be any, interactive, bulk"),
        ("bulk user", "nothing is expected behind 'bulk'"),
        ("user bulk more", "'NAME SHA256 CREATED \\[ROLE\\] \\[PRIORITIES\\]' is expected"),
    ],
)
def test_priorities_that_are_none_are_named(path: Path, rights: str, wrong: str) -> None:
    path.parent.mkdir()
    path.write_text(f"alice {'0' * 64} now {rights}\n")
    with pytest.raises(KeyFileError, match=f"line 1: {wrong}"):
        api_keys.read(path)


def test_a_name_given_twice_is_refused(path: Path) -> None:
    path.parent.mkdir()
    path.write_text(f"a {'0' * 64} now\na {'1' * 64} now\n")
    with pytest.raises(KeyFileError, match="line 2"):
        api_keys.read(path)


def test_a_file_that_is_no_text_is_refused(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(KeyFileError, match="cannot be read"):
        api_keys.read(path)


def test_a_ring_needs_its_file(path: Path) -> None:
    with pytest.raises(KeyFileError, match="does not exist"):
        KeyRing(path)


def test_a_ring_knows_its_keys_by_name(path: Path) -> None:
    alice, bob = api_keys.add(path, "alice"), api_keys.add(path, "bob")
    ring = KeyRing(path)
    assert (ring.name_of(alice), ring.name_of(bob)) == ("alice", "bob")
    assert ring.name_of(alice[:-1]) is None
    assert ring.name_of("") is None
    assert ring.name_of("\udcff") is None


def test_a_change_is_seen_within_a_second(path: Path) -> None:
    clock = FakeClock()
    alice = api_keys.add(path, "alice")
    ring = KeyRing(path, clock)
    bob = api_keys.add(path, "bob")
    assert ring.name_of(bob) is None
    clock.now += 1.0
    assert ring.name_of(bob) == "bob"
    api_keys.remove(path, "alice")
    clock.now += 1.0
    assert ring.name_of(alice) is None


@pytest.mark.parametrize("spoil", [lambda path: path.write_text("nonsense"), lambda path: path.unlink()])
def test_a_change_that_cannot_be_used_leaves_the_keys(
    path: Path, spoil: object, caplog: pytest.LogCaptureFixture
) -> None:
    clock = FakeClock()
    alice = api_keys.add(path, "alice")
    ring = KeyRing(path, clock)
    assert callable(spoil)
    spoil(path)
    clock.now += 1.0
    assert ring.name_of(alice) == "alice"
    assert [record.event for record in caplog.records] == ["api_keys_kept"]  # type: ignore[attr-defined]
    bob_path = path.with_name("other")
    bob = api_keys.add(bob_path, "bob")
    bob_path.replace(path)
    clock.now += 1.0
    assert (ring.name_of(bob), ring.name_of(alice)) == ("bob", None)
