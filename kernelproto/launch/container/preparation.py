"""The parameters, variables, user and files of one launch in a container."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping

import msgspec

from kernelproto.exceptions import InvalidLaunchParameter, LaunchError
from kernelproto.launch.container.arguments import SHARED, env_file_text
from kernelproto.launch.container.settings import ContainerKernel, Path
from kernelproto.launch.leftovers.kernel_folder import KernelFolder
from kernelproto.launch.spec.parameters import (
    LaunchParameters,
    fill_in,
    kernel_environment,
    require_known,
)
from kernelproto.wire.connection import ConnectionInfo

SOCKETS = "s"
ENV_FILE = "env"

_SOCKET = "k"
_CONNECTION_FILE = "connection.json"
_KEY_BYTES = 32

# sockaddr_un.sun_path without the terminating zero, and the hyphen and number of each channel.
_LONGEST_SOCKET = 107 - 2

# Each container has a limit for processes; these limits are for all containers of a user.
_MOST_OPEN_FILES = 65_536
_MOST_PROCESSES = 32_768

_NOBODY = "65534:65534"
_ROOT = "0:0"
_TAKES = ("env", "transport", "encryption", "detached", "listed_as")


def check_parameters(
    kernel: ContainerKernel, cwd: str | None, launch_params: Mapping[str, object] | None
) -> tuple[LaunchParameters, str | None]:
    """Check the parameters of a launch, and the working directory; return both.

    Raises:
        InvalidLaunchParameter: a parameter is unknown, has the wrong type, or is not possible.
    """
    defaults = {"detached": kernel.detached}
    parameters = LaunchParameters.check(
        {**defaults, **(launch_params or {})}, argv=kernel.command, env=kernel.env
    )
    require_known(parameters, _TAKES, "a kernel in a container")
    if parameters.transport == "tcp":
        raise InvalidLaunchParameter(
            "launch parameter 'transport' cannot be 'tcp': a kernel in a container is reached over "
            "ipc"
        )
    if parameters.encryption == "required":
        raise InvalidLaunchParameter(
            "launch parameter 'encryption' cannot be 'required': a kernel in a container is "
            "reached over ipc sockets in a private folder, without encryption"
        )
    if cwd is None:
        return parameters, None
    cwd = os.path.abspath(cwd)
    if kernel.cwd == "refused":
        raise InvalidLaunchParameter(
            "this kernel type takes no working directory: its setting 'cwd' is 'refused'"
        )
    try:
        msgspec.convert(cwd, Path)
    except msgspec.ValidationError:
        raise InvalidLaunchParameter(
            f"the working directory {cwd!r} cannot be mounted in a container: its path must be "
            "absolute, not the root folder, and without commas, double quotes and line breaks"
        ) from None
    if not os.path.isdir(cwd):
        raise InvalidLaunchParameter(f"the working directory {cwd!r} does not exist")
    return parameters, cwd


def command_of(
    kernel: ContainerKernel, parameters: LaunchParameters, kernel_id: str
) -> tuple[str, ...]:
    """Return the command line with every name in braces filled in."""
    names = {"connection_file": f"{SHARED}/{_CONNECTION_FILE}", "kernel_id": kernel_id}
    return tuple(fill_in(kernel.command, {**parameters.values, **names}))


def environment_of(kernel: ContainerKernel, parameters: LaunchParameters) -> dict[str, str]:
    """Return the variables of a kernel, which inherits none."""
    variables = kernel_environment(
        kernel.env, parameters.env, parameters.values, inherited=os.environ
    )
    given = {name: variables[name] for name in (*kernel.env, *parameters.env)}
    return {"HOME": "/tmp", **given}


def user_of(kernel: ContainerKernel, *, rootless: bool, kind: str) -> tuple[str, bool]:
    """Return the user in the container, and whether the user has the same number outside.

    Root in a rootless container is the user of this program outside, who owns the sockets.
    """
    keeps_user = rootless and kind == "podman" and kernel.user != _ROOT
    if kernel.user is not None:
        return kernel.user, keeps_user
    if os.getuid() == 0:
        return _NOBODY, False
    if rootless and not keeps_user:
        return _ROOT, False
    return f"{os.getuid()}:{os.getgid()}", keeps_user


def ulimits() -> dict[str, int]:
    """Return the limits of each process of a container, as far as this program has them."""
    import resource  # which Windows does not have

    hard = {
        "nofile": min(resource.getrlimit(resource.RLIMIT_NOFILE)[1], _MOST_OPEN_FILES),
        "nproc": min(resource.getrlimit(resource.RLIMIT_NPROC)[1], _MOST_PROCESSES),
    }
    return {name: number for name, number in hard.items() if number > 0}


def write_files(folder: KernelFolder, env: Mapping[str, str], user: str) -> ConnectionInfo:
    """Write the files of a launch; return how this program connects to the kernel.

    Raises:
        LaunchError: the files cannot be written, or the path of the folder is too long.
    """
    sockets = folder.file(SOCKETS)
    if len(os.fsencode(os.path.join(sockets, _SOCKET))) > _LONGEST_SOCKET:
        raise LaunchError(
            f"the path of the folder {folder.path!r} is too long for ipc sockets: set 'folder' of "
            "the provider 'container' to a shorter path"
        )
    info = ConnectionInfo(
        transport="ipc",
        ip=os.path.join(sockets, _SOCKET),
        shell_port=1,
        iopub_port=2,
        stdin_port=3,
        control_port=4,
        hb_port=5,
        key=secrets.token_hex(_KEY_BYTES),
        kernel_name=folder.record.kernel_type,
    )
    in_container = msgspec.structs.replace(info, ip=f"{SHARED}/{_SOCKET}")
    try:
        os.mkdir(sockets, mode=0o700)
        folder.write_info(info)
        file = os.path.join(SOCKETS, _CONNECTION_FILE)
        folder.write(file, in_container.to_json)
        folder.write(ENV_FILE, lambda: env_file_text(env).encode())
        if os.getuid() == 0:
            uid, gid = map(int, user.split(":"))
            os.chown(sockets, uid, gid)
            os.chown(folder.file(file), uid, gid)
    except (OSError, RuntimeError, ValueError) as error:
        raise LaunchError(
            f"cannot write the files of a kernel in {folder.path!r}: {error}"
        ) from error
    return info
