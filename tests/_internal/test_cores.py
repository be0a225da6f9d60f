"""How many cores are free, from the kernel's clocks."""

from __future__ import annotations

import pytest

from ancestral._internal import cores
from ancestral._internal.cores import Load
from ancestral._internal.words import rate


@pytest.fixture
def clocks(monkeypatch):
    """A machine whose clocks are set: (usable cores, seconds, own, busy, used by the group, quota)."""

    def machine(usable: int, *, own=0.0, busy=0.0, used=None, quota=None, seconds=1.0) -> int:
        before = Load(0.0, 0.0, None if busy is None else 0.0, None if used is None else 0.0)
        monkeypatch.setattr(cores, "usable_cores", lambda: usable)
        monkeypatch.setattr(cores, "_group_quota", lambda: quota)
        monkeypatch.setattr(Load, "now", staticmethod(lambda: Load(seconds, own, busy, used)))
        monkeypatch.setattr(cores.time, "sleep", lambda seconds: None)
        return before.free()

    return machine


def test_free_cores_are_those_that_others_leave(clocks):
    assert clocks(2, own=1.0, busy=1.05) == 2
    assert clocks(2, own=1.0, busy=2.0) == 1
    assert clocks(2, own=0.4, busy=2.0) == 1
    assert clocks(8, own=1.0, busy=4.1) == 5
    assert clocks(8, own=8.0, busy=8.0) == 8
    assert clocks(64, own=2.0, busy=130.0, seconds=2.0) == 1


def test_a_container_has_its_quota(clocks):
    assert clocks(64, own=1.0, busy=2.0, quota=4.0) == 4
    assert clocks(64, own=1.0, busy=2.0, quota=4.0, used=3.0) == 2
    assert clocks(4, own=0.0, busy=None, quota=0.5) == 1
    assert clocks(4, own=1.0, busy=None, quota=2.0, used=1.0) == 2


def test_where_the_system_does_not_say_all_cores_are_free(clocks):
    assert clocks(4, busy=None) == 4
    assert clocks(1, busy=5.0) == 1


def test_files_of_the_kernel_are_read(tmp_path, monkeypatch):
    stat, group = tmp_path / "stat", tmp_path / "cgroup"
    group.mkdir()
    monkeypatch.setattr(cores, "_STAT", stat)
    monkeypatch.setattr(cores, "_CGROUP", group)
    monkeypatch.setattr(cores.os, "sched_getaffinity", lambda pid: {0, 2}, raising=False)
    monkeypatch.setattr(cores.os, "sysconf", lambda name: 100)
    assert (cores._busy(), cores._group_quota(), cores._group_used()) == (None, None, None)
    stat.write_text(
        "cpu  9 9 9 9 9 9 9 9 0 0\ncpu0 100 50 30 1000 70 5 10 5 0 0\ncpu1 900 0 0 0 0 0 0 0 0 0\n"
        "cpu2 200 0 0 99 1 0 0 0 0 0\nintr 1\n"
    )
    assert cores._busy() == 4.0
    (group / "cpu.max").write_text("150000 100000\n")
    (group / "cpu.stat").write_text("usage_usec 2500000\nuser_usec 1\n")
    assert (cores._group_quota(), cores._group_used()) == (1.5, 2.5)
    (group / "cpu.max").write_text("max 100000\n")
    assert cores._group_quota() is None


def test_rates_have_two_digits():
    assert [rate(value, "images") for value in (0.954, 1.3, 9.9, 12.3, 1250.4)] == [
        "0.95 images/s",
        "1.3 images/s",
        "9.9 images/s",
        "12 images/s",
        "1,250 images/s",
    ]
