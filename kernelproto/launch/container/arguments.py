"""The command lines of podman and docker, which have the same options here."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from kernelproto.launch.container.settings import ContainerKernel

# The folder of the connection file and the sockets, in the container.
SHARED = "/run/kernelproto"

_LOG_BYTES = 1024 * 1024

# podman and docker read such values from a file as they are. They differ in quotes, comments, and
# in space at the ends.
_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PLAIN_VALUE = re.compile(r"[!$-&(-\[\]-~](?:[ !$-&(-\[\]-~]{0,30000}[!$-&(-\[\]-~])?|")


def run_arguments(
    kernel: ContainerKernel,
    *,
    kind: str,
    name: str,
    labels: Mapping[str, str],
    shared: str,
    log: str,
    user: str,
    keeps_user: bool,
    ulimits: Mapping[str, int],
    cwd: str | None,
    env: Mapping[str, str],
    env_file: str,
    command: Sequence[str],
) -> list[str]:
    """Return the arguments that start the container of a kernel in the background.

    Args:
        kernel: the kernel type.
        kind: ``"podman"`` or ``"docker"``.
        name: the name of the container.
        labels: the labels of the container.
        shared: the folder of this machine that has the connection file and the sockets.
        log: the file for the output of the kernel; docker writes none.
        user: the user and the group in the container, as numbers.
        keeps_user: whether the user in the container has the same number outside; rootless podman.
        ulimits: the limits of each process, for podman.
        cwd: the working directory.
        env: the environment variables.
        env_file: the file with the variables that env_file_text() has.
        command: the command line of the kernel.
    """
    arguments = ["run", "--detach", "--init", "--read-only", f"--name={name}", f"--user={user}"]
    arguments += [f"--label={key}={value}" for key, value in labels.items()]
    arguments += [f"--pull={kernel.pull}", f"--network={kernel.network}"]
    arguments += ["--cap-drop=ALL", "--security-opt=no-new-privileges"]
    arguments.append(f"--tmpfs=/tmp:rw,nosuid,nodev,size={kernel.tmp},mode=1777")
    if kind == "podman":
        # The engine's other temporary file systems would have no limit of their own.
        arguments += [
            "--read-only-tmpfs=false",
            "--log-driver=k8s-file",
            f"--log-opt=path={log}",
        ]
        arguments += [f"--log-opt=max-size={_LOG_BYTES}", "--image-volume=ignore"]
        arguments += ["--userns=keep-id"] if keeps_user else []
        # Podman would raise them, which not every machine allows.
        arguments += [f"--ulimit={limit}={number}:{number}" for limit, number in ulimits.items()]
    else:
        arguments += ["--log-driver=json-file", f"--log-opt=max-size={_LOG_BYTES}"]
    if kernel.memory is not None:
        arguments += [f"--memory={kernel.memory}b", f"--memory-swap={kernel.memory}b"]
    if kernel.cpus is not None:
        arguments.append(f"--cpus={kernel.cpus:g}")
    if kernel.processes is not None:
        arguments.append(f"--pids-limit={kernel.processes}")
    elif kind == "podman":
        arguments.append("--pids-limit=-1")  # instead of the engine's default limit
    arguments.append(_mount(shared, SHARED, read_only=False))
    for mount in kernel.mounts:
        arguments.append(_mount(mount.source, mount.target or mount.source, mount.read_only))
    if cwd is not None:
        arguments += [_mount(cwd, cwd, kernel.cwd == "read-only"), f"--workdir={cwd}"]
    arguments.append(f"--env-file={env_file}")
    arguments += [f"--env={name}={env[name]}" for name in env if not _is_plain(name, env[name])]
    program, *rest = command
    # The image may have an entry point.
    return [*arguments, *kernel.options, f"--entrypoint={program}", kernel.image, *rest]


def env_file_text(env: Mapping[str, str]) -> str:
    """Return the file of the variables with plain values, which command lines must not show.

    Command lines are visible to all users of a machine, and most secrets are plain.
    """
    return "".join(f"{name}={env[name]}\n" for name in env if _is_plain(name, env[name]))


def _is_plain(name: str, value: str) -> bool:
    is_plain = _PLAIN_NAME.fullmatch(name) and _PLAIN_VALUE.fullmatch(value)
    return is_plain is not None


def _mount(source: str, target: str, read_only: bool) -> str:
    return f"--mount=type=bind,source={source},target={target}{',readonly' if read_only else ''}"
