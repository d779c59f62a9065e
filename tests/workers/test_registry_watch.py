"""A registry that follows its files, and is not led astray by a bad edit."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.workers.reference_models import CONFIGS, write_model
from workers.document import MAX_BYTES
from workers.registry import RegistryError
from workers.registry_watch import INTERVAL_S, Change, RegistryWatch

SMALL = CONFIGS["Qwen2.5-0.5B-Instruct"]
SIM = "models:\n  s: {engine: sim}\n"


class Site:
    """A models.yaml and a models directory, watched; every poll comes when it is due."""

    def __init__(self, root: Path) -> None:
        self.file = root / "models.yaml"
        self.models = root / "models"
        self.models.mkdir()
        self.file.write_text(SIM)
        self.watch = RegistryWatch(self.file, self.models)
        self.now = 0.0

    def poll(self) -> Change | None:
        self.now += INTERVAL_S
        return self.watch.poll(self.now)

    def ids(self) -> set[str]:
        return {*self.watch.current().models}


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_nothing_new_is_no_change(site: Site) -> None:
    assert site.poll() is None
    assert site.ids() == {"s"}


def test_there_is_no_start_without_a_registry(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match="cannot be read"):
        RegistryWatch(tmp_path / "none.yaml")


def test_who_must_know_now_need_not_wait_for_the_next_look(site: Site) -> None:
    assert site.poll() is None
    site.file.write_text(SIM + "  t: {engine: sim}\n")
    assert site.watch.poll(site.now) is None
    change = site.watch.refresh(site.now)
    assert change is not None
    assert change.added == ("t",)
    assert site.poll() is None


def test_an_edit_is_live_at_the_next_look(site: Site) -> None:
    site.file.write_text("models:\n  s: {engine: sim, pinned: true}\n  t: {engine: sim}\n")
    change = site.poll()
    assert change is not None
    assert (change.added, change.removed, change.changed, change.problem) == (("t",), (), ("s",), None)
    assert change.registry is site.watch.current()
    assert site.watch.current().models["s"].pinned
    assert site.poll() is None


def test_it_looks_no_more_often_than_it_was_told(site: Site) -> None:
    assert site.poll() is None
    site.file.write_text("models:\n  t: {engine: sim}\n")
    assert site.watch.poll(site.now + INTERVAL_S - 0.1) is None
    assert site.watch.poll(site.now + INTERVAL_S) is not None
    assert INTERVAL_S <= 2.0  # so that what is new is live within five seconds


def test_a_change_during_the_first_reading_is_seen(tmp_path: Path) -> None:
    site = Site(tmp_path)
    write_model(site.models / "small", SMALL)
    assert site.poll() is not None


def test_a_new_folder_is_a_new_model_and_an_old_one_goes(site: Site) -> None:
    folder = write_model(site.models / "small", SMALL)
    change = site.poll()
    assert change is not None
    assert change.added == ("small",)
    shutil.rmtree(folder)
    change = site.poll()
    assert change is not None
    assert (change.removed, site.ids()) == (("small",), {"s"})


def test_a_folder_becomes_a_model_when_it_is_complete(site: Site) -> None:
    folder = write_model(site.models / "small", SMALL, shards=2)
    missing = folder / "model-00002-of-00002.safetensors"
    missing.rename(site.models.parent / "part")
    change = site.poll()
    assert change is not None
    assert (change.added, list(change.registry.skipped)) == ((), [folder])
    with missing.open("wb") as file:
        file.write(b"\0" * 100)
    assert site.poll() is not None  # now it is another reason
    with missing.open("ab") as file:
        file.write(b"\0" * 100)
    assert site.poll() is None  # which stays the same while the file grows
    (site.models.parent / "part").replace(missing)
    change = site.poll()
    assert change is not None
    assert change.added == ("small",)


def test_weights_that_are_replaced_make_another_model(site: Site) -> None:
    folder = write_model(site.models / "small", SMALL)
    assert site.poll() is not None
    other = write_model(site.models.parent / "other", SMALL | {"num_hidden_layers": 12})
    shutil.rmtree(folder)
    other.rename(folder)
    change = site.poll()
    assert change is not None
    assert change.changed == ("small",)
    assert change.registry.folders["small"].config.shape is not None
    assert change.registry.folders["small"].config.shape.layers == 12


def test_a_folder_that_an_entry_names_is_watched_wherever_it_is(site: Site) -> None:
    place = site.models.parent / "elsewhere" / "m"
    site.file.write_text(f"models:\n  m: {{path: {place}}}\n")
    assert site.poll() is not None
    assert site.poll() is None
    write_model(place, SMALL)
    change = site.poll()
    assert change is not None
    assert (change.changed, change.registry.models["m"].tool_call_parser) == (("m",), "hermes")
    assert site.poll() is None
    (place / "tokenizer.json").symlink_to("/etc/passwd")
    change = site.poll()
    assert change is not None
    assert "tokenizer.json is a symlink that leads out of" in change.registry.problems["m"]


ALIAS_BOMB = "a0: &a0 [x]\n" + "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (ALIAS_BOMB, "models.yaml:2: YAML aliases (*a0) are not allowed"),
        ("models:\n  s: {engine: sim}\n  s: {engine: sim}\n", "models.yaml:3: models.s: given twice, first on line 2"),
        ("models:\n\ts: {engine: sim}\n", "models.yaml:2: indented with a tab"),
        ("#" * (50 << 20), f"models.yaml: larger than {MAX_BYTES:,} bytes"),
        ('models:\n  s: {engine: sim, pinned: "no"}\n', "models.yaml:2: models.s.pinned: true or false is expected"),
        ("models:\n  s:\n    engine: sim\n    pined: true\n", "models.yaml:4: models.s.pined: unknown key"),
        ("models:\n  s: {engine: sim, memory_mib: 12:30:45}\n", "models.yaml:2: models.s.memory_mib: a whole number"),
        ("", "models.yaml:1: `name: value` pairs are expected"),
        (None, "models.yaml: cannot be read"),
    ],
    ids=["alias bomb", "duplicate", "tab", "50 MB", "text for a boolean", "unknown key", "time", "empty", "gone"],
)
def test_a_bad_edit_keeps_the_old_registry_and_is_told_once(site: Site, text: str | None, problem: str) -> None:
    before = site.watch.current()
    if text is None:
        site.file.unlink()
    else:
        site.file.write_text(text)
    change = site.poll()
    assert change is not None
    assert change.problem is not None
    assert problem in change.problem
    assert change.registry is before is site.watch.current()
    assert site.poll() is None
    if text is not None:
        site.file.write_text(text + " ")
        assert site.poll() is None  # another edit with the same mistake
    site.file.write_text(SIM)
    mended = site.poll()
    assert mended == Change(registry=before)
    assert site.poll() is None


def test_a_new_folder_waits_until_a_bad_edit_is_mended(site: Site) -> None:
    site.file.write_text("models: [")
    write_model(site.models / "small", SMALL)
    change = site.poll()
    assert change is not None
    assert (change.problem is not None, site.ids()) == (True, {"s"})
    site.file.write_text(SIM)
    change = site.poll()
    assert change is not None
    assert change.added == ("small",)


def test_a_hostile_folder_harms_no_other_model(site: Site) -> None:
    write_model(site.models / "good", SMALL)
    bad = write_model(site.models / "bad", SMALL)
    (bad / "config.json").unlink()
    (bad / "config.json").symlink_to("/etc/passwd")
    change = site.poll()
    assert change is not None
    assert change.added == ("good",)
    assert "config.json is a symlink that leads out of" in change.registry.skipped[bad]
