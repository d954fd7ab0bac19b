"""Threads follow what a process may really use: affinity, the quota of its control group, OMP_NUM_THREADS."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from compress.core.cores import quota, usable_cores, wait_politely


@pytest.fixture(autouse=True)
def many_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    for name in ("OMP_NUM_THREADS", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)


def _grouped(tmp_path: Path, membership: str, files: dict[str, str]) -> dict[str, Path]:
    own = tmp_path / "own"
    own.write_text(membership)
    for name, text in files.items():
        path = tmp_path / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return {"root": tmp_path / "groups", "own": own}


@pytest.mark.parametrize(
    ("membership", "files", "cores", "limit"),
    [
        ("0::/\n", {}, 64, None),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 64, None),
        ("0::/\n", {"cpu.max": "100000 100000\n"}, 1, 1.0),
        ("0::/\n", {"cpu.max": "50000 100000\n"}, 1, 0.5),
        ("0::/\n", {"cpu.max": "250000 100000\n"}, 2, 2.5),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "300000 100000\n"}, 3, 3.0),
        # A container that sees its group as the root of the mount.
        ("0::/system.slice/docker-1\n", {"cpu.max": "200000 100000\n"}, 2, 2.0),
        (
            "4:cpu,cpuacct:/job\n1:memory:/job\n",
            {"cpu,cpuacct/job/cpu.cfs_quota_us": "150000\n", "cpu,cpuacct/job/cpu.cfs_period_us": "50000\n"},
            3,
            3.0,
        ),
        ("4:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 64, None),
        ("0::/\n", {"cpu.max": "damaged\n"}, 64, None),
        ("0::/\n", {"cpu.max": "100000 0\n"}, 64, None),
    ],
)
def test_a_quota_bounds_the_cores(
    tmp_path: Path, membership: str, files: dict[str, str], cores: int, limit: float | None
) -> None:
    places = _grouped(tmp_path, membership, files)
    assert usable_cores(**places) == cores
    assert quota(**places) == limit


def test_a_quota_that_changes_is_read_again(tmp_path: Path) -> None:
    places = _grouped(tmp_path, "0::/\n", {"cpu.max": "400000 100000\n"})
    assert usable_cores(**places) == 4
    (places["root"] / "cpu.max").write_text("100000 100000\n")
    assert usable_cores(**places) == 1


def test_without_control_groups_all_cores_count(tmp_path: Path) -> None:
    assert usable_cores(root=tmp_path, own=tmp_path / "none") == 64


@pytest.mark.parametrize(("text", "cores"), [("3", 3), ("3,2", 3), ("100", 64), ("0", 64), ("many", 64)])
def test_openmp_s_number_of_threads_bounds_them_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, cores: int
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    assert usable_cores(root=tmp_path, own=tmp_path / "none") == cores
    # torchrun sets it to 1 for processes that share a machine: that is no wish of the user's.
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert usable_cores(root=tmp_path, own=tmp_path / "none") == 64


def test_how_threads_wait_is_the_users_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"):
        monkeypatch.delenv(name, raising=False)
    with monkeypatch.context() as changed:
        changed.setenv("OMP_WAIT_POLICY", "active")
        wait_politely()
        assert "GOMP_SPINCOUNT" not in os.environ
    monkeypatch.setenv("GOMP_SPINCOUNT", "1")
    monkeypatch.delenv("GOMP_SPINCOUNT")
    wait_politely()
    assert int(os.environ["GOMP_SPINCOUNT"]) > 0


def test_a_run_uses_no_more_threads_than_the_quota_allows() -> None:
    code = (
        "import compress.inputs.torch_state as state, torch\n"
        "state.usable_cores = lambda: 1\n"
        "torch.set_num_threads(2)\n"
        "with state.own_torch_state(): print(torch.get_num_threads(), end=' ')\n"
        "print(torch.get_num_threads())"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.split() == ["1", "2"]
