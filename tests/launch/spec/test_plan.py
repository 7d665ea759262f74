from __future__ import annotations

import msgspec
import pytest

from kernelproto.exceptions import InvalidKernelSpec, InvalidLaunchParameter
from kernelproto.launch.process.limits import Limits
from kernelproto.launch.programs import ipykernel
from kernelproto.launch.spec.kernelspec import KernelSpec
from kernelproto.launch.spec.plan import Host, LaunchPlan, plan_launch

HOST = Host(python="/opt/bin/python", prefix="/opt", has_ipc=True, has_curve=True)
CURVE = {"supported_encryption": ["curve"]}
IPYKERNEL = ("python3", "-m", "ipykernel_launcher", "-f", "{connection_file}")


def kernelspec(*argv: str, **fields: object) -> KernelSpec:
    argv = argv or ("R", "{connection_file}")
    return KernelSpec(name="ir", resource_dir="/kernels/ir", argv=argv, **fields)


def plan(*argv: str, host: Host = HOST, params=None, **fields: object) -> LaunchPlan:
    return plan_launch("spec", kernelspec(*argv, **fields), host, launch_params=params)


def test_plan_of_a_kernelspec() -> None:
    made = plan(
        *("R", "{connection_file}", "{level}"),
        env={"LEVEL": "{level}:${HOME}"},
        interrupt_mode="message",
        kernel_protocol_version="5.6",
        params={
            "level": 3,
            "env": {"A": "${B}"},
            "extra_arguments": ["-v"],
            "limits": {"memory": 2**30},
        },
    )
    assert made == LaunchPlan(
        argv=("R", "{connection_file}", "{level}", "-v"),
        kernel_type="spec/ir",
        values={"level": "3", "prefix": "/opt", "resource_dir": "/kernels/ir"},
        kernelspec_env={"LEVEL": "{level}:${HOME}"},
        env={"A": "${B}"},
        registers=True,
        interrupt_mode="message",
        limits=Limits(memory=2**30),
    )


def test_command_and_environment_are_filled_in_once() -> None:
    made = plan(
        *("R", "{connection_file}", "{kernel_id}", "{resource_dir}", "{level}"),
        env={"LEVEL": "{level} ${HOME} {prefix}", "PATH": "/r:${PATH}"},
        params={"level": "{kernel_id}${HOME}", "env": {"A": "${HOME}/a"}},
    )
    assert made.command(connection_file="/run/k.json", kernel_id="7") == [
        *("R", "/run/k.json", "7", "/kernels/ir", "{kernel_id}${HOME}")
    ]
    assert made.environment({"HOME": "/home/ada", "PATH": "/bin"}) == {
        "HOME": "/home/ada",
        "PATH": "/r:/bin",
        "LEVEL": "{kernel_id}${HOME} /home/ada {prefix}",
        "A": "/home/ada/a",
    }


def test_python_is_that_of_the_host() -> None:
    assert plan(*IPYKERNEL).argv[0] == "/opt/bin/python"


@pytest.mark.parametrize(
    ("argv", "has_ipc", "params", "transport"),
    [
        (IPYKERNEL, True, {}, "ipc"),
        (IPYKERNEL, False, {}, "tcp"),
        (IPYKERNEL, True, {"transport": "tcp"}, "tcp"),
        (IPYKERNEL, True, {"ip": "127.0.0.2"}, "tcp"),
        (("/usr/bin/python", ipykernel.__file__, "{connection_file}"), True, {}, "ipc"),
        (("ssh", "python", "-m", "ipykernel", "{connection_file}"), True, {}, "tcp"),
        (("R", "{connection_file}"), True, {}, "tcp"),
        (("R", "{connection_file}"), False, {"transport": "ipc"}, "ipc"),  # the launch refuses it
    ],
)
def test_transport(argv, has_ipc, params, transport) -> None:
    host = msgspec.structs.replace(HOST, has_ipc=has_ipc)
    assert plan(*argv, host=host, params=params).transport == transport


@pytest.mark.parametrize(
    ("metadata", "has_curve", "params", "encrypted"),
    [
        (CURVE, True, {}, True),
        (CURVE, False, {}, False),
        (CURVE, True, {"encryption": "disabled"}, False),
        (CURVE, True, {"transport": "ipc"}, False),
        ({}, True, {}, False),
    ],
)
def test_encryption(metadata, has_curve, params, encrypted) -> None:
    host = msgspec.structs.replace(HOST, has_curve=has_curve)
    assert plan(host=host, metadata=metadata, params=params).encrypted is encrypted


def test_encryption_that_this_pyzmq_lacks() -> None:
    host = msgspec.structs.replace(HOST, has_curve=False)
    with pytest.raises(InvalidLaunchParameter, match="without CurveZMQ"):
        plan(host=host, metadata=CURVE, params={"encryption": "required"})


def test_kernelspec_of_another_launcher() -> None:
    with pytest.raises(InvalidKernelSpec, match="docker"):
        plan(metadata={"kernel_provisioner": {"provisioner_name": "docker"}})


def test_kernelspec_without_connection_file() -> None:
    with pytest.raises(InvalidKernelSpec, match="connection_file"):
        plan("R")


def test_description() -> None:
    made = plan_launch(
        "fork",
        kernelspec(*IPYKERNEL, "{prefix}", "{level}", env={"LEVEL": "{level}:${HOME}"}),
        HOST,
        cwd="/home/ada",
        launch_params={"level": 3, "output": "/tmp/out", "limits": {"memory": 2**30}},
        spawn="fork",
        preload=["numpy"],
    )
    description = made.describe()
    assert msgspec.json.decode(msgspec.json.encode(description)) == description
    assert description == {
        "kernel_type": "fork/ir",
        "provider": "fork",
        "argv": [*("/opt/bin/python", *IPYKERNEL[1:], "/opt", "3")],
        "values": {"level": "3"},
        "env": {"LEVEL": "{level}:${HOME}"},
        "unset": [],
        "cwd": "/home/ada",
        "transport": "ipc",
        "ip": None,
        "encrypted": False,
        "registers": False,
        "interrupt_mode": "signal",
        "limits": {"memory": 2**30, "cpu_seconds": None, "open_files": None, "processes": None},
        "sandbox": None,
        "detached": False,
        "output": "/tmp/out",
        "spawn": "fork",
        "preload": ["numpy"],
    }


def test_variables_that_the_kernel_does_not_inherit() -> None:
    made = msgspec.structs.replace(
        plan("R", "{connection_file}", params={"env": {"B": "caller's"}}), unset=("A", "B")
    )
    assert made.environment({"A": "1", "B": "2", "C": "3"}) == {"B": "caller's", "C": "3"}


@pytest.mark.parametrize(
    ("output", "shown"), [(print, "a callable"), (3, 3), (None, None), (object(), "an open file")]
)
def test_description_of_the_output(output, shown) -> None:
    assert plan(params={"output": output}).describe()["output"] == shown


def test_secrets_are_not_shown() -> None:
    properties = {
        "pin": {"type": "string", "format": "password"},
        "vault": {"properties": {"entry": {"writeOnly": True}}},
        "referred": {"$ref": "#/$defs/pin"},
        "level": {"type": "string"},
    }
    made = plan(
        *("R", "{connection_file}", "--pin={pin}", "--level={level}"),
        env={"HUB_TOKEN": "s3cret", "SHOWN": "${HOME}"},
        metadata={
            "parameters": {
                "properties": properties,
                "patternProperties": {"^x_": {}},
                "$defs": {"pin": {"format": "password"}},
            }
        },
        params={
            "pin": "s3cret",
            "vault": {"entry": "s3cret"},
            "referred": "s3cret",
            "x_pin": "s3cret",
            "level": "high",
            "env": {"DB_PASSWORD": "s3cret", "AWS_ACCESS_KEY_ID": "s3cret"},
        },
    )
    description = made.describe()
    assert "s3cret" not in str(description) + repr(made)
    assert description["argv"] == ["R", "{connection_file}", "--pin={pin}", "--level=high"]
    assert description["values"]["level"] == "high"
    assert description["env"] == {
        "HUB_TOKEN": "***",
        "SHOWN": "${HOME}",
        "DB_PASSWORD": "***",
        "AWS_ACCESS_KEY_ID": "***",
    }
    assert made.command(connection_file="f", kernel_id="i")[2] == "--pin=s3cret"
