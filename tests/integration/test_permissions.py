"""What others can see of a kernel: nothing. Others are another user, and another machine."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from kernelproto import Kernel, run_kernel
from kernelproto.wire.connection import CHANNEL_NAMES

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]

NOBODY = 65_534
SCRIPT = Path(__file__).with_name("share") / "kernels" / "scripted" / "kernel.py"

needs_two_users = pytest.mark.skipif(
    not hasattr(os, "getuid") or os.getuid() != 0,
    reason="only root can be another user as well",
)
needs_proc = pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="needs /proc/net/tcp")

# Tries everything, and prints what it could do. It becomes the other user itself, because that one
# need not be allowed to run this Python.
STRANGER = f"""
import os, socket, sys
os.setgroups([])
os.setgid({NOBODY})
os.setuid({NOBODY})
for path in sys.argv[1:]:
    attempts = {{
        "read": lambda: open(path, "rb").read(),
        "write": lambda: open(path, "ab"),
        "list": lambda: os.listdir(path),
        "connect": lambda: socket.socket(socket.AF_UNIX).connect(path),
        "replace": lambda: os.rename(path, path + "x"),
    }}
    for name, attempt in attempts.items():
        try:
            attempt()
        except OSError:
            continue
        print(name, path)
print("tried")
"""


def what_a_stranger_can_do(*paths: str) -> list[str]:
    tried = subprocess.run(
        [sys.executable, "-I", "-c", STRANGER, *paths], capture_output=True, text=True, check=True
    )
    *could, last = tried.stdout.splitlines()
    assert last == "tried"
    return could


@pytest.fixture
def open_folder(runtime_dir: Path) -> Path:
    """Let everybody into the runtime folder, which some systems do."""
    runtime_dir.parent.chmod(0o755)
    runtime_dir.chmod(0o755)
    return runtime_dir


def files_of(kernel: Kernel) -> list[str]:
    info = kernel.connection_info
    files = [kernel.manager.connection_file]
    if info.transport == "ipc":
        sockets = [info.endpoint(name).removeprefix("ipc://") for name in CHANNEL_NAMES]
        assert all(os.path.exists(path) for path in sockets)
        files += [os.path.dirname(info.ip), *sockets]
    return files


@needs_two_users
@pytest.mark.parametrize("transport", ["tcp", "ipc"])
@pytest.mark.parametrize("name", ["scripted", "registering"])
async def test_another_user(open_folder, write_kernelspec, transport, name) -> None:
    write_kernelspec(
        "registering",
        argv=["python", "-I", str(SCRIPT), "{connection_file}", ""],
        kernel_protocol_version="5.6",
    )
    async with run_kernel(f"spec/{name}", transport=transport) as kernel:
        files = files_of(kernel)
        assert what_a_stranger_can_do(*files) == []
        everything = [str(path) for path in open_folder.rglob("*")]
        assert set(files) <= set(everything)
        could = what_a_stranger_can_do(*everything)
        assert [deed for deed in could if deed.split()[0] != "list"] == []
    # The attempts are real ones: they succeed where they may.
    (open_folder / "public").write_text("for all")
    assert what_a_stranger_can_do(str(open_folder / "public")) == [f"read {open_folder / 'public'}"]
    (open_folder / "public").unlink()


def listening_addresses() -> set[tuple[str, str]]:
    """Return where sockets listen, and their inodes; the addresses as /proc writes them."""
    found = set()
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        if table.exists():
            for line in table.read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A":
                    found.add((fields[1].split(":")[0], f"socket:[{fields[9]}]"))
    return found


def sockets_of(pid: int) -> set[str]:
    sockets = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # the one that was listing them
            sockets.add(os.readlink(link))
    return sockets


@needs_proc
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("pyimport/kernel", {"transport": "tcp"}),
        ("pyimport/kernel", {"transport": "ipc"}),
        ("spec/scripted", {"transport": "tcp"}),
    ],
)
async def test_nothing_listens_beyond_loopback(name, options) -> None:
    if sys.byteorder != "little":
        pytest.skip("addresses are written in another order here")
    before = listening_addresses()
    async with run_kernel(name, **options) as kernel:
        kernels_own = sockets_of(kernel.manager.pid)
        ours = sockets_of(os.getpid())
        listening = {
            (address, inode)
            for address, inode in listening_addresses() - before
            if inode in kernels_own | ours
        }
        assert (len(listening) >= len(CHANNEL_NAMES)) is (options["transport"] == "tcp")
        assert {address for address, _ in listening} <= {"0100007F"}  # 127.0.0.1


@needs_proc
async def test_other_interfaces_are_used_when_they_are_asked_for() -> None:
    async with run_kernel(
        "spec/scripted", launch_params={"ip": "0.0.0.0"}, encryption="disabled"
    ) as kernel:
        assert kernel.connection_info.ip == "0.0.0.0"
        kernels_own = sockets_of(kernel.manager.pid)
        addresses = {address for address, inode in listening_addresses() if inode in kernels_own}
        assert addresses == {"00000000"}
