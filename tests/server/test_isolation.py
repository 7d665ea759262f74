"""Isolated users: their settings, their home folders, and their kernels on a real server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

if sys.platform == "win32":
    pytest.skip("users are isolated on Linux only", allow_module_level=True)

import fcntl
import pwd

from starlette.exceptions import HTTPException

from kernelproto import KernelFinder
from kernelproto.exceptions import InvalidSettings
from kernelproto.file_owner import Owner
from kernelproto.launch.process.confinement import users_fault
from kernelproto.launch.process.sandbox import Sandbox
from kernelproto.server import Settings, load_settings
from kernelproto.server.auth.authenticators import hash_token
from kernelproto.server.homes import Home, Homes, folder_name
from kernelproto.server.isolation import Isolation
from kernelproto.server.isolation_settings import IsolationSettings
from kernelproto.server.limits import KernelLimits, LimitTables, UserLimits
from kernelproto.server.program.checks import check_settings
from tests.server.program.test_serve import channels, execute, served

FIRST = 2_000_000_000
UIDS = range(FIRST, FIRST + 3)
RANGE = f"{UIDS[0]}-{UIDS[-1]}"

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give folders away")

# Tells about a kernel, after it has written a file.
ABOUT = """
import getpass, json, os
from ipykernel.connect import get_connection_file
open("secret", "w").write(getpass.getuser())
home = os.path.expanduser("~")
print(json.dumps([os.getcwd(), home, os.getuid(), os.getgroups(), get_connection_file()]))
"""

# Each line is an attack on another user.
ATTACKS = """
import glob, json, os, re, signal
home, folder, connection_file, pid = {victim!r}
attacks = {{
    "list of homes": lambda: os.listdir(folder),
    "list of files": lambda: os.listdir(home),
    "file": lambda: open(home + "/secret").read(),
    "new file": lambda: open(home + "/new", "w"),
    "link": lambda: os.symlink(home, "link") or os.listdir("link"),
    "connection file": lambda: open(connection_file).read(),
    "sockets": lambda: [
        path for path in glob.glob(os.path.dirname(connection_file) + "/**", recursive=True)
        # Not any part of a name: an id can end in "ada".
        if "{name}" in re.split("[^a-z0-9]", path)
        or path.endswith(os.path.basename(connection_file))
    ],
    "processes": lambda: sorted(int(name) for name in os.listdir("/proc") if name.isdigit()),
    "signal": lambda: os.kill(pid, signal.SIGKILL),
    "memory": lambda: open(f"/proc/{{pid}}/mem", "rb"),
}}
found = {{}}
for name, attack in attacks.items():
    try:
        found[name] = attack()
    except OSError as error:
        found[name] = type(error).__name__
print(json.dumps(found))
"""
REFUSED = {"FileNotFoundError", "PermissionError", "ProcessLookupError"}


def isolating(tmp_path: Path, more: str = "") -> Path:
    """Return a file with the settings of a server for the users ada and bob."""
    tokens, config = tmp_path / "users.toml", tmp_path / "server.toml"
    tokens.touch(0o600)
    tokens.write_text(
        "".join(f'[{name}]\ntoken = "{hash_token(name)}"\n' for name in ("ada", "bob"))
    )
    config.write_text(
        f'isolate = "users"\nkernel = "fork/kernel"\nauthentication = "file"\n'
        f'token_file = "{tokens}"\n[isolation]\nuids = "{RANGE}"\n'
        f'folder = "{tmp_path / "homes"}"\n{more}'
    )
    return config


def text_of(messages: list[Any]) -> str:
    return "".join(m.content.text for m in messages if m.msg_type == "stream")


def test_a_file_can_have_all_settings(tmp_path: Path) -> None:
    file = tmp_path / "server.toml"
    file.write_text(
        'isolate = "users"\n[isolation]\nuids = "200000-299999"\nfolder = "/homes"\n'
        '[isolation.sandbox]\nnetwork = "full"\nwritable = { "/scratch" = 1000000 }'
    )
    assert load_settings(str(file)).isolation == IsolationSettings(
        uids="200000-299999",
        folder="/homes",
        sandbox=Sandbox(network="full", writable={"/scratch": 1_000_000}),
    )


@pytest.mark.parametrize(
    ("isolation", "others", "reason"),
    [
        ({}, {}, r"isolation\.uids: set a range of user numbers"),
        ({"uids": "accounts"}, {"multi_user": False}, r"isolate: all users share their kernels"),
        ({"uids": "accounts"}, {"root_dir": "/srv"}, r"root_dir: the paths of isolated users"),
        ({"uids": "accounts"}, {"warm": 1}, r"warm: a kernel that is started ahead of time"),
        ({"uids": "accounts"}, {"mcp": True, "mcp_dir": "/srv"}, r"mcp_dir: the files of conv"),
        (
            {"uids": "accounts"},
            {"mcp": True, "mcp_sandbox": Sandbox(uid=5)},
            r"mcp_sandbox\.uid: remove it",
        ),
        (
            {"uids": "accounts"},
            {"limits": LimitTables(users={"ada": UserLimits(sandbox={"uid": 5})})},
            r'limits\.users\."ada"\.sandbox: remove uid',
        ),
        (
            {"uids": "accounts"},
            {"limits": LimitTables(kernels={"fork/kernel": KernelLimits(warm=1)})},
            r"warm: a kernel that is started ahead of time",
        ),
        ({"uids": "accounts", "folder": "/x"}, {}, r"isolation\.folder: remove it"),
        ({"uids": "accounts", "home_memory": 2**20}, {}, r"isolation\.home_memory: remove it"),
        ({"uids": "accounts", "sandbox": Sandbox(uid=5)}, {}, r"isolation\.sandbox: remove uid"),
        ({"uids": "5-2000", "folder": "/x"}, {}, r"isolation\.uids: '5-2000' is not a range"),
        ({"uids": "3000-2000", "folder": "/x"}, {}, r"isolation\.uids: '3000-2000' is not a range"),
        ({"uids": "2000-9999999999", "folder": "/x"}, {}, r"isolation\.uids: .* is not a range"),
        ({"uids": "2000-3000"}, {}, r"isolation\.folder: set the absolute path"),
        ({"uids": "2000-3000", "folder": "x"}, {}, r"isolation\.folder: set the absolute path"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    isolation: dict[str, Any], others: dict[str, Any], reason: str
) -> None:
    with pytest.raises(InvalidSettings, match=reason):
        Settings(isolate="users", isolation=IsolationSettings(**isolation), **others)


def test_the_table_needs_the_setting() -> None:
    with pytest.raises(InvalidSettings, match=r"isolation: set isolate = users"):
        Settings(isolation=IsolationSettings(uids="accounts"))


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_server_without_the_rights_of_root_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    settings = Settings(isolate="users", isolation=IsolationSettings(uids="accounts"))
    with pytest.raises(InvalidSettings, match=r"isolate: .*: only a program of root can run"):
        await check_settings(settings, KernelFinder.from_entrypoints())


@needs_root
@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_file_with_tokens_that_users_may_read_is_refused(tmp_path: Path) -> None:
    tokens = tmp_path / "users.toml"
    tokens.touch(0o640)
    settings = Settings(
        isolate="users",
        isolation=IsolationSettings(uids=RANGE, folder=str(tmp_path / "homes")),
        token_file=str(tokens),
    )
    finder = KernelFinder.from_entrypoints()
    with pytest.raises(InvalidSettings, match=r"token_file: isolated users may read or write"):
        await check_settings(settings, finder)
    tokens.chmod(0o600)
    await check_settings(settings, finder)
    settings = msgspec.structs.replace(
        settings, limits=LimitTables(users={"ada": UserLimits(processes=50)})
    )
    await check_settings(settings, finder)  # the sandbox limits them, although the user is root


def test_other_systems_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kernelproto.server.isolation.sys.platform", "darwin")
    with pytest.raises(InvalidSettings, match="on Linux only"):
        Isolation(IsolationSettings(uids="accounts"))


def test_names_of_users_give_different_folders() -> None:
    names = [
        "ada",
        "Ada",
        ".",
        "..",
        "%2E",
        "a/b",
        "a%2Fb",
        "",
        "é",
        "+new-x",
        "x" * 300,
        "x" * 301,
    ]
    folders = [folder_name(name) for name in names]
    assert len(set(folders)) == len(names)
    for name in folders:
        assert name not in (".", "..")
        assert "/" not in name
        assert len(name) < 255
        assert not name.startswith("+new-")


@needs_root
def test_each_user_gets_a_number_and_keeps_it(tmp_path: Path) -> None:
    folder = tmp_path / "homes"
    homes = Homes(str(folder), UIDS)
    homes.check()
    found = [homes.find(name) for name in ("ada", "bob", "ada", "..")]
    assert [home.owner.uid for home in found] == [FIRST, FIRST + 1, FIRST, FIRST + 2]
    for home in found:
        state = os.stat(home.path)
        assert (state.st_uid, state.st_gid) == home.owner
        assert state.st_mode & 0o777 == 0o700
    assert folder.stat().st_mode & 0o777 == 0o700
    again = Homes(str(folder), UIDS)
    again.check()
    assert again.find("bob") == found[1]
    with pytest.raises(HTTPException, match=r"no number is left"):
        again.find("eve")
    os.rmdir(found[0].path)
    assert again.find("eve").owner.uid == FIRST


@needs_root
def test_a_folder_of_a_server_that_was_killed_is_removed(tmp_path: Path) -> None:
    homes = Homes(str(tmp_path), UIDS)
    (tmp_path / "+new-abc").mkdir()
    os.chown(tmp_path / "+new-abc", FIRST, FIRST)
    assert homes.find("ada").owner.uid == FIRST
    assert os.listdir(tmp_path) == ["ada"]


@needs_root
def test_two_servers_do_not_give_one_number_to_two_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kernelproto.server.homes.FOLDER_SECONDS", 0.05)
    homes = Homes(str(tmp_path), UIDS)
    descriptor = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with pytest.raises(HTTPException, match=r"another program holds the lock"):
            homes.find("ada")
    finally:
        os.close(descriptor)
    assert homes.find("ada").owner.uid == FIRST


@needs_root
def test_folders_and_numbers_of_others_are_refused(tmp_path: Path) -> None:
    account = next(user for user in pwd.getpwall() if user.pw_uid >= 1)
    with pytest.raises(InvalidSettings, match=r"is the account"):
        Homes(str(tmp_path), range(account.pw_uid, account.pw_uid + 1)).check()
    homes = Homes(str(tmp_path), UIDS)
    (tmp_path / "ada").mkdir()
    with pytest.raises(InvalidSettings, match=r"ada' belongs to user 0, which is outside"):
        homes.check()
    with pytest.raises(HTTPException, match=r"is not a folder of a user"):
        homes.find("ada")
    os.rmdir(tmp_path / "ada")
    tmp_path.chmod(0o777)
    with pytest.raises(InvalidSettings, match=r"other users than root can write to"):
        homes.check()


def test_only_accounts_of_persons_are_used() -> None:
    homes = Homes(None, range(0))
    homes.check()
    for name in ("root", "nobody"):
        with pytest.raises(HTTPException, match=r"not that of a person"):
            homes.find(name)
    for name in ("", "no such account", "a\0b", "\ud800"):
        with pytest.raises(HTTPException, match=r"no account with your name"):
            homes.find(name)


def test_a_sandbox_has_the_home_folder_of_its_user_alone() -> None:
    isolation = Isolation(IsolationSettings(uids=RANGE, folder="/homes"))
    sandbox = isolation.sandbox_of(
        Home("/homes/ada", Owner(5, 6)),
        {"hidden": ["/data"], "writable": {"/scratch": 100}, "network": "full"},
    )
    assert sandbox == {
        "uid": 5,
        "writable": {"/scratch": 100, "/homes/ada": None},
        "hidden": ["/data", "/homes"],
        "network": "full",
    }


@needs_root
@pytest.mark.usefixtures("no_leaks")
def test_users_are_apart(tmp_path: Path, runtime_dir: Path) -> None:
    if (fault := users_fault()) is not None:
        pytest.skip(fault)
    config, folder = isolating(tmp_path), tmp_path / "homes"
    with ExitStack() as stack:
        process, client = stack.enter_context(served("--config", str(config)))
        facts: dict[str, tuple[str, str, str, int]] = {}
        sockets: dict[str, Any] = {}
        for name in ("ada", "bob"):
            client.headers["authorization"] = f"token {name}"
            started = client.post("/api/kernels", json={"path": "deep/notebook.ipynb"})
            assert started.status_code == 201, started.text
            [model] = client.get("/api/kernels").json()
            sockets[name] = stack.enter_context(channels(client, model["id"]))
            told = text_of(execute(sockets[name], ABOUT, f"{name}-1"))
            cwd, home, uid, groups, connection_file = json.loads(told)
            assert cwd == home == str(folder / name)
            assert uid == UIDS[len(facts)]
            assert groups == []
            owned = os.stat(connection_file)  # on the machine; the kernel has a copy
            assert (owned.st_uid, owned.st_mode & 0o777) == (0, 0o600)
            [kernel] = [
                child.pid
                for child in psutil.Process(process.pid).children(recursive=True)
                if child.uids().real == uid
            ]
            facts[name] = home, str(folder), connection_file, kernel
            assert (folder / name / "secret").read_text() == name
        for name, other in (("ada", "bob"), ("bob", "ada")):
            attack = ATTACKS.format(victim=facts[other], name=other)
            found = json.loads(text_of(execute(sockets[name], attack, f"{name}-2")))
            assert found.pop("list of homes") == [name]
            assert found.pop("sockets") == []
            # The init of the sandbox, which belongs to root, and the kernel.
            assert found.pop("processes") == [1, 2]
            assert {
                attack: result for attack, result in found.items() if result not in REFUSED
            } == {}
        assert (folder / "bob" / "secret").read_text() == "bob"


# Prints the error of a connection to the loopback interface, and the facts about a file.
IN_CONTEXT = """
import os, socket
try:
    socket.create_connection(("127.0.0.1", 1))
except OSError as error:
    print(type(error).__name__)
print(os.getcwd(), os.stat("new").st_uid == os.getuid(), open("new").read())
os.symlink({other!r}, "link")
"""


@needs_root
@pytest.mark.usefixtures("no_leaks")
def test_contexts_of_isolated_users(tmp_path: Path, runtime_dir: Path) -> None:
    if (fault := users_fault()) is not None:
        pytest.skip(fault)
    more = '[limits.users.ada.sandbox]\nnetwork = "loopback"\n'
    config, folder = isolating(tmp_path, more), tmp_path / "homes"
    with served("--config", str(config)) as (_, client):
        files: dict[str, str] = {}
        for name, other, told in (
            ("ada", "bob", "ConnectionRefusedError"),
            ("bob", "ada", "OSError"),
        ):
            client.headers["authorization"] = f"token {name}"
            started = client.post("/api/contexts")
            assert started.status_code == 201, started.text
            context = f"/api/contexts/{started.json()['id']}"
            files[name] = f"{context}/files"
            assert client.put(f"{files[name]}/new", content=b"of " + name.encode()).is_success
            assert (folder / name / "new").stat().st_uid == UIDS[len(files) - 1]
            code = IN_CONTEXT.format(other=str(folder / other))
            response = client.post(f"{context}/execute", json={"code": code})
            events = [json.loads(line) for line in response.text.splitlines()]
            printed = "".join(event["text"] for event in events if event["type"] == "stdout")
            assert printed.splitlines() == [told, f"{folder / name} True of {name}"]
        # Files of the server in a home folder, as of a careless administrator.
        secret = folder / "bob" / "secret"
        secret.touch(0o600)
        for path in ("secret", "link/new", "link/secret"):
            assert client.get(f"{files['bob']}/{path}").status_code == 400
        assert client.put(f"{files['bob']}/link/new", content=b"").status_code == 400
        assert client.get(files["ada"]).status_code == 404
        listed = client.get(files["bob"]).json()["files"]
        assert {file["name"] for file in listed} >= {"new", "secret"}
        assert not any(file["name"].startswith("link/") for file in listed)
        refused = client.post("/api/contexts", json={"cwd": "link"})
        assert (refused.status_code, "cwd: 'link' is no folder" in refused.text) == (400, True)
        weaker = {"launch_params": {"sandbox": {"network": "loopback"}}}
        refused = client.post("/api/contexts", json=weaker)
        assert (refused.status_code, "is weaker" in refused.text) == (400, True)
        assert (folder / "ada" / "new").read_text() == "of ada"


# Runs in a mount namespace of its own, so no mount can stay.
IN_MEMORY = f"""
import os, sys
from kernelproto.confined_folder import ConfinedFolder, Refused
from kernelproto.launch.programs import namespaces
from kernelproto.server.homes import Homes
namespaces.unshare("mounts", namespaces.NEWNS)
namespaces.keep_mounts_private()
for _ in range(2):  # the second one finds the mount of the first one
    homes = Homes(sys.argv[1], range({FIRST}, {FIRST} + 1), memory=2**20)
    homes.check()
    home = homes.find("ada")
    print(os.path.ismount(home.path), os.stat(home.path).st_uid, os.listdir(home.path))
    with ConfinedFolder(home.path, owner=home.owner) as folder:
        try:
            folder.write("file", bytes(2**20 + 1))
        except Refused as refusal:
            print(refusal)
        folder.write("small", b"1")
print(os.listdir(sys.argv[1]))
"""


@needs_root
def test_home_folders_in_memory_have_a_size(tmp_path: Path) -> None:
    if (fault := users_fault()) is not None:
        pytest.skip(fault)
    folder = tmp_path / "homes"
    command = [sys.executable, "-c", IN_MEMORY, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    full = "'file' cannot be used: No space left on device"
    assert done.stdout.splitlines() == [
        *(f"True {FIRST} []", full),
        *(f"True {FIRST} ['small']", full),
        "['ada']",
    ]
    assert os.listdir(folder / "ada") == []


@needs_root
def test_an_account_has_a_home_folder_that_only_it_can_replace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "ada"
    home.mkdir()
    account = pwd.struct_passwd(("ada", "x", FIRST, FIRST, "", str(home), "/bin/sh"))
    monkeypatch.setattr(pwd, "getpwnam", lambda name: account)
    homes = Homes(None, range(0))
    with pytest.raises(HTTPException, match=r"does not belong to its account"):
        homes.find("ada")
    os.chown(home, FIRST, FIRST)
    assert homes.find("ada") == Home(str(home), Owner(FIRST, FIRST))
    os.chown(tmp_path, FIRST + 1, 0)
    with pytest.raises(HTTPException, match=r"other users than root can write to"):
        homes.find("ada")
    home.rename(tmp_path / "away")
    with pytest.raises(HTTPException, match=r"ada cannot be used: No such file"):
        homes.find("ada")
