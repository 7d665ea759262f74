from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from ipykernel.kernelspec import get_kernel_dict

from kernelproto.exceptions import (
    InvalidKernelSpec,
    InvalidLaunchParameter,
    KernelExitedEarly,
    LaunchError,
    NoSuchKernel,
)
from kernelproto.interfaces import KernelProvider
from kernelproto.launch import providers
from kernelproto.launch.providers import (
    ForkServerProvider,
    IPykernelProvider,
    KernelSpecProvider,
)

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]

GUARD_SECONDS = 60
PARAMETERS = ["-c", "import os, sys; print(os.environ['LEVEL'], *sys.argv[1:], sep='\\n')"]
ECHO = [sys.executable, "-c", "import sys; print(*sys.argv[1:], sep='\\n')"]


async def output_of(manager) -> list[str]:
    """Return the output of a kernel that ends by itself, and clean up."""
    with anyio.fail_after(GUARD_SECONDS):
        await manager.wait()
    await manager.cleanup()
    return manager.output_tail().splitlines()


@pytest.mark.parametrize("provider", [KernelSpecProvider(), IPykernelProvider()])
def test_they_are_providers(provider) -> None:
    assert isinstance(provider, KernelProvider)


async def test_spec_finds_kernelspecs(write_kernelspec) -> None:
    write_kernelspec("IR", argv=["R", "{connection_file}"], display_name="R", language="R")
    write_kernelspec("broken")
    kernels = dict([kernel async for kernel in KernelSpecProvider().find_kernels()])
    assert kernels["ir"]["display_name"] == "R"
    assert "broken" not in kernels


async def test_spec_launches(write_kernelspec) -> None:
    folder = write_kernelspec(
        "Echo",
        argv=[*ECHO, "{connection_file}", "{kernel_id}", "{resource_dir}", "{prefix}", "{x}{y}"],
    )
    info, manager = await KernelSpecProvider().launch(
        "ECHO",
        launch_params={"x": 1, "extra_arguments": ["more"], "prefix": "/", "kernel_id": "/"},
    )
    assert info.kernel_name == "spec/echo"
    assert info.transport == "tcp"
    assert await output_of(manager) == [
        manager.connection_file,
        manager.kernel_id,
        str(folder),
        sys.prefix,
        "1{y}",
        "more",
    ]


async def test_spec_hands_on_the_environment(write_kernelspec, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("OURS", "1")
    code = "import os; print(os.environ['OURS'], os.environ['THEIRS'], os.getcwd())"
    write_kernelspec(
        "env",
        argv=["python", "-c", code, "{connection_file}"],
        env={"OURS": "${OURS}2", "THEIRS": "0"},
    )
    _, manager = await KernelSpecProvider().launch(
        "env", cwd=str(tmp_path), launch_params={"env": {"THEIRS": "3"}}
    )
    assert manager.command[0] == sys.executable
    assert await output_of(manager) == [f"12 3 {tmp_path}"]


async def test_spec_hands_on_the_interrupt_mode(write_kernelspec) -> None:
    write_kernelspec("message", argv=[*ECHO, "{connection_file}"], interrupt_mode="message")
    _, manager = await KernelSpecProvider().launch("message")
    assert manager._interrupt_mode == "message"
    await manager.cleanup()


@pytest.mark.parametrize(
    ("argv", "transport"),
    [
        (["python", "-m", "ipykernel_launcher", "-f", "{connection_file}"], "ipc"),
        ([sys.executable, "-X", "x", "-m", "ipykernel", "-f", "{connection_file}"], "ipc"),
        (["python", "-m", "bash_kernel", "-f", "{connection_file}"], "tcp"),
        (["python", "{connection_file}", "-m"], "tcp"),
        (["env", "python", "-m", "ipykernel_launcher", "-f", "{connection_file}"], "tcp"),
    ],
)
async def test_transport_unless_one_is_asked_for(write_kernelspec, argv, transport) -> None:
    write_kernelspec("some", argv=argv)
    info, manager = await KernelSpecProvider().launch("some")
    assert info.transport == transport
    await manager.cleanup()
    other = {"tcp": "ipc", "ipc": "tcp"}[transport]
    info, manager = await KernelSpecProvider().launch("some", launch_params={"transport": other})
    assert info.transport == other
    await manager.cleanup()


async def test_spec_knows_no_such_kernel(write_kernelspec) -> None:
    write_kernelspec("ir", argv=ECHO)
    write_kernelspec("julia", argv=ECHO)
    with pytest.raises(NoSuchKernel, match="JUPYTER_PATH") as caught:
        await KernelSpecProvider().launch("jullia")
    assert caught.value.available[0] == "julia"
    assert "ir" in caught.value.available


async def test_spec_names_the_fault_of_a_kernelspec(write_kernelspec) -> None:
    folder = write_kernelspec("broken", argv=[])
    with pytest.raises(InvalidKernelSpec, match="argv") as caught:
        await KernelSpecProvider().launch("broken")
    assert Path(caught.value.path).parent == folder


@pytest.mark.parametrize("params", [{"env": {"A": 1}}, {"transport": "udp"}, {"evn": {}}])
async def test_wrong_launch_parameters(write_kernelspec, runtime_dir, params) -> None:
    write_kernelspec("echo", argv=ECHO)
    with pytest.raises(InvalidLaunchParameter, match=next(iter(params))):
        await KernelSpecProvider().launch("echo", launch_params=params)
    assert list(runtime_dir.iterdir()) == []


async def test_spec_refuses_another_launcher(write_kernelspec, runtime_dir) -> None:
    metadata = {"kernel_provisioner": {"provisioner_name": "docker-provisioner"}}
    write_kernelspec("far", argv=[*ECHO, "{connection_file}"], metadata=metadata)
    with pytest.raises(InvalidKernelSpec, match="'docker-provisioner', without which"):
        await KernelSpecProvider().launch("far")
    assert list(runtime_dir.iterdir()) == []
    found = dict([kernel async for kernel in KernelSpecProvider().find_kernels()])
    assert "docker-provisioner" in found["far"]["unavailable"]


async def test_no_place_for_sockets(runtime_dir, monkeypatch) -> None:
    long = runtime_dir / ("x" * 100)
    long.mkdir()
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(long))
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    info, manager = await IPykernelProvider().launch("kernel")
    await manager.cleanup()
    assert info.transport == "tcp"
    assert info.encrypted
    for params in ({"transport": "ipc"}, {"transport": "ipc", "encryption": "required"}):
        with pytest.raises(LaunchError, match="set TMPDIR to a shorter path, or use tcp"):
            await IPykernelProvider().launch("kernel", launch_params=params)
    long.rmdir()  # which is empty


async def test_spec_without_a_connection_file(write_kernelspec, runtime_dir) -> None:
    path = str(write_kernelspec("deaf", argv=ECHO) / "kernel.json")
    with pytest.raises(InvalidKernelSpec) as caught:
        await KernelSpecProvider().launch("deaf")
    assert str(caught.value) == (
        f"{path}: 'argv' has no '{{connection_file}}', without which the kernel cannot know where "
        "to listen: add it where the kernel takes that file, or in extra_arguments"
    )
    assert (caught.value.path, caught.value.key) == (path, "argv")
    assert list(runtime_dir.iterdir()) == []
    params = {"extra_arguments": ["{connection_file}"]}
    _, manager = await KernelSpecProvider().launch("deaf", launch_params=params)
    assert await output_of(manager) == [manager.connection_file]


async def test_spec_fills_in_launch_parameters(write_kernelspec) -> None:
    write_kernelspec(
        "parameters",
        argv=["python3", *PARAMETERS, "{connection_file}", "--size={size}", "{prefix}"],
        env={"LEVEL": "level {level}"},
        metadata={
            "launch_parameter_schema": {
                "properties": {
                    "size": {"type": "object", "properties": {"cpus": {"default": 2}}},
                    "level": {"enum": ["low", "high"], "default": "low"},
                    "prefix": {"default": "/"},
                },
                "required": ["size"],
            }
        },
    )
    launch = KernelSpecProvider().launch
    _, manager = await launch("parameters", launch_params={"size": {"gpus": 1}})
    sizes = '--size={"gpus": 1, "cpus": 2}'
    assert await output_of(manager) == ["level low", manager.connection_file, sizes, sys.prefix]
    for params, message in [
        ({}, "'size' is missing"),
        ({"size": 5}, "'size' is 5"),
        ({"size": {}, "level": "medium"}, r"'level' is \"medium\", .*\"high\""),
        ({"size": {}, "sise": {}}, "'sise' has no effect on this kernel type; it takes size"),
    ]:
        with pytest.raises(InvalidLaunchParameter, match=message):
            await launch("parameters", launch_params=params)


async def test_pyimport_finds_ipykernel() -> None:
    ((name, attributes),) = [kernel async for kernel in IPykernelProvider().find_kernels()]
    assert name == "kernel"
    assert attributes["display_name"] == "Python 3 (ipykernel)"
    assert attributes["language"] == "python"
    assert attributes["argv"][0] == sys.executable
    logo = os.path.join(attributes["resource_dir"], "logo-64x64.png")
    assert attributes["resources"]["logo-64x64"] == logo


async def test_pyimport_launches(tmp_path) -> None:
    # Without our connection file, ipykernel would make another one.
    info, manager = await IPykernelProvider().launch(
        "kernel",
        cwd=str(tmp_path),
        launch_params={"env": {"A": "1"}, "extra_arguments": ["--help"]},
    )
    assert (info.transport, info.kernel_name) == ("ipc", "pyimport/kernel")
    assert manager.connection_file in manager.command
    assert any("IPython kernel" in line for line in await output_of(manager))
    assert manager.returncode == 0


async def test_pyimport_without_ipykernel(monkeypatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert [kernel async for kernel in IPykernelProvider().find_kernels()] == []
    with pytest.raises(NoSuchKernel, match="pip install ipykernel"):
        await IPykernelProvider().launch("kernel")


async def test_pyimport_with_a_folder_named_ipykernel(monkeypatch, tmp_path) -> None:
    tmp_path.joinpath("ipykernel").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    assert [kernel async for kernel in IPykernelProvider().find_kernels()] == []


async def test_pyimport_has_one_kernel_only() -> None:
    with pytest.raises(NoSuchKernel) as caught:
        await IPykernelProvider().launch("kernle")
    assert caught.value.available == ("kernel",)


async def test_ipykernel_is_not_imported_to_be_found() -> None:
    program = (
        "import sys, anyio\n"
        "from kernelproto.launch.providers import IPykernelProvider\n"
        "async def main(): print([name async for name, _ in IPykernelProvider().find_kernels()])\n"
        "anyio.run(main); print('ipykernel' in sys.modules)"
    )
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = await anyio.run_process([sys.executable, "-c", program], env=env)
    assert done.stdout.split() == [b"['kernel']", b"False"]


CURVE = {"supported_encryption": ["curve"]}


@pytest.mark.parametrize(
    ("metadata", "params", "ip", "encrypted"),
    [
        (CURVE, {"transport": "tcp"}, "127.0.0.1", True),
        (CURVE, {"transport": "ipc"}, None, False),
        (CURVE, {"transport": "ipc", "encryption": "required"}, None, True),
        (CURVE, {"encryption": "disabled"}, "127.0.0.1", False),
        (CURVE, {"ip": "0.0.0.0"}, "0.0.0.0", True),
        ({}, {"encryption": "auto"}, "127.0.0.1", False),
        ({}, {"ip": "127.0.0.2"}, "127.0.0.2", False),
        ({}, {"ip": "0.0.0.0", "encryption": "disabled"}, "0.0.0.0", False),
    ],
)
async def test_spec_is_encrypted(write_kernelspec, metadata, params, ip, encrypted) -> None:
    write_kernelspec("echo", argv=[*ECHO, "{connection_file}"], metadata=metadata)
    info, manager = await KernelSpecProvider().launch("echo", launch_params=params)
    assert info.encrypted is encrypted
    assert info.transport == ("tcp" if ip else "ipc")
    assert ip in (None, info.ip)
    await manager.cleanup()


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"encryption": "required"}, "encryption='required'.*supported_encryption"),
        ({"encryption": "required", "transport": "ipc"}, "encryption='required'"),
        ({"encryption": "perhaps"}, "encryption"),
        ({"ip": "0.0.0.0"}, r"0\.0\.0\.0.*supported_encryption"),
        ({"ip": "0.0.0.0", "encryption": "auto"}, r"0\.0\.0\.0.*supported_encryption"),
        ({"ip": "127.0.0.1", "transport": "ipc"}, "'ip' has no meaning with ipc"),
        ({"ip": "::1"}, "'ip' must be an IPv4 address, not '::1'"),
        ({"ip": "localhost"}, "'ip' must be an IPv4 address"),
        ({"ip": 127}, "'ip' must be an IPv4 address"),
        ({"ip": "192.0.2.1", "encryption": "disabled"}, "no such address"),
    ],
)
async def test_spec_refuses_address_or_encryption(
    write_kernelspec, runtime_dir, params, words
) -> None:
    write_kernelspec("echo", argv=[*ECHO, "{connection_file}"])
    with pytest.raises(InvalidLaunchParameter, match=words):
        await KernelSpecProvider().launch("echo", launch_params=params)
    assert list(runtime_dir.iterdir()) == []


@pytest.mark.parametrize("version", ["5.5", "5.6", None])
async def test_spec_registers_from_5_6_on(write_kernelspec, version) -> None:
    code = "import json, sys; sys.exit(' '.join(json.load(open(sys.argv[1]))))"
    entries = {"kernel_protocol_version": version} if version else {}
    write_kernelspec("keys", argv=[sys.executable, "-c", code, "{connection_file}"], **entries)
    if version == "5.6":
        with pytest.raises(KernelExitedEarly, match="registration_port"):
            await KernelSpecProvider().launch("keys")
    else:
        _, manager = await KernelSpecProvider().launch("keys")
        (keys,) = await output_of(manager)
        assert "shell_port" in keys


@pytest.fixture
def unknown_version() -> Iterator[None]:
    """Have the version of ipykernel looked up, before and after the test."""
    providers._has_curve.cache_clear()
    yield
    providers._has_curve.cache_clear()


@pytest.mark.parametrize(
    ("version", "encrypted"),
    [("7.4.0", True), ("7.3.0a1", True), ("8.0", True), ("7.2.9", False), ("main", False)],
)
async def test_pyimport_is_encrypted_if_this_ipykernel_can(
    monkeypatch, unknown_version, version, encrypted
) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    params = {"transport": "tcp", "extra_arguments": ["--help"]}
    info, manager = await IPykernelProvider().launch("kernel", launch_params=params)
    assert info.encrypted is encrypted
    await manager.cleanup()


async def test_pyimport_with_an_ipykernel_that_was_not_installed(
    monkeypatch, unknown_version
) -> None:
    def fail(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", fail)
    ((_, attributes),) = [kernel async for kernel in IPykernelProvider().find_kernels()]
    assert "supported_encryption" not in attributes["metadata"]


async def test_a_new_version_of_ipykernel_is_noticed(
    monkeypatch, packages, unknown_version
) -> None:
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    folder, about = packages / "ipykernel", packages / "ipykernel-1.dist-info" / "METADATA"
    folder.mkdir()
    (folder / "__init__.py").touch()
    about.parent.mkdir()
    found = []
    for seconds, version in enumerate(["7.2.0", "7.4.0"]):
        about.write_text(f"Metadata-Version: 2.1\nName: ipykernel\nVersion: {version}\n")
        os.utime(folder, (seconds, seconds))
        ((_, attributes),) = [kernel async for kernel in IPykernelProvider().find_kernels()]
        found.append("supported_encryption" in attributes["metadata"])
    assert found == [False, True]


async def test_pyimport_has_the_metadata_of_ipykernels_own_kernelspec() -> None:
    ((_, attributes),) = [kernel async for kernel in IPykernelProvider().find_kernels()]
    assert attributes["metadata"] == get_kernel_dict()["metadata"]


async def test_plan_of_a_kernelspec_starts_nothing(write_kernelspec, runtime_dir) -> None:
    folder = write_kernelspec("Echo", argv=[*ECHO, "{connection_file}", "{x}"])
    plan = KernelSpecProvider().plan("ECHO", cwd="/", launch_params={"x": 1})
    assert plan.kernel_type == "spec/echo"
    assert plan.argv == (*ECHO, "{connection_file}", "{x}")
    assert plan.values == {"x": "1", "prefix": sys.prefix, "resource_dir": str(folder)}
    assert (plan.cwd, plan.spawn) == ("/", "process")
    assert list(runtime_dir.iterdir()) == []
    with pytest.raises(NoSuchKernel):
        KernelSpecProvider().plan("unknown")


async def test_plan_of_a_forked_kernel() -> None:
    provider = ForkServerProvider(preload=["decimal"])
    plan = provider.plan("kernel", launch_params={"limits": {"memory": 2**40}})
    assert (plan.kernel_type, plan.spawn, plan.preload) == ("fork/kernel", "fork", ("decimal",))
    assert plan.argv[1:] == IPykernelProvider().plan("kernel").argv[1:]
    plan = provider.plan("kernel", launch_params={"detached": True})
    assert (plan.spawn, plan.detached) == ("fork", True)


OWN = {
    "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}", "--x={x}"],
    "display_name": "My Python",
    "language": "python",
    "env": {"LEVEL": "{x}"},
    "interrupt_mode": "message",
    "metadata": {"debugger": True, "parameters": {"properties": {"x": {"default": "1"}}}},
}


@pytest.mark.skipif(sys.platform == "darwin", reason="python3 is not forked")
async def test_forked_python3_is_its_kernelspec(write_kernelspec, monkeypatch) -> None:
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "0")
    folder = write_kernelspec("python3", **OWN)
    (folder / "logo-svg.svg").touch()
    found = dict([kernel async for kernel in ForkServerProvider().find_kernels()])
    for key in ("display_name", "language", "env", "interrupt_mode", "metadata"):
        assert found["python3"][key] == OWN[key]
    assert found["python3"]["resources"] == {"logo-svg": str(folder / "logo-svg.svg")}
    plan = ForkServerProvider(["decimal"]).plan("Python3", cwd="/", launch_params={"x": "2"})
    assert (plan.kernel_type, plan.spawn, plan.preload) == ("fork/python3", "fork", ("decimal",))
    assert plan.command(connection_file="file", kernel_id="id")[-3:] == ["-f", "file", "--x=2"]
    assert plan.environment({})["LEVEL"] == "2"
    assert (plan.interrupt_mode, plan.cwd, plan.transport) == ("message", "/", "ipc")
    plan = ForkServerProvider(["decimal"]).plan("python3", launch_params={"detached": True})
    assert (plan.spawn, plan.detached) == ("fork", True)
    plan = ForkServerProvider(["decimal"]).plan(
        "python3", launch_params={"env": {"PYTHONPATH": "/"}}
    )
    assert (plan.spawn, plan.preload) == ("process", ())
    assert plan.argv[:3] == IPykernelProvider().plan("kernel").argv[:3]
    monkeypatch.setenv("KERNELPROTO_FORK_PYTHON3", "0")
    with pytest.raises(NoSuchKernel):
        ForkServerProvider().plan("python3")


@pytest.mark.parametrize("change", [{"argv": ["R", "{connection_file}"]}, {"argv": []}])
async def test_other_python3_is_not_forked(write_kernelspec, monkeypatch, change) -> None:
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "0")
    write_kernelspec("python3", **{**OWN, **change})
    found = dict([kernel async for kernel in ForkServerProvider().find_kernels()])
    assert "python3" not in found
    with pytest.raises(NoSuchKernel):
        ForkServerProvider().plan("python3")
