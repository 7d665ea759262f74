"""The settings of kernels in containers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec

from kernelproto.launch.spec.configuration import ConfiguredKernels, KernelSettings
from kernelproto.launch.spec.parameters import Argument

# The engines separate the parts of a mount by commas, and quote with double quotes.
Path = Annotated[str, msgspec.Meta(pattern=r'\A/[^\0,"\n\r]+\Z')]

# Not an option: the engines take the image as an argument without a separator.
Image = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9][A-Za-z0-9._:/@-]{0,1023}\Z")]
User = Annotated[str, msgspec.Meta(pattern=r"\A[0-9]{1,10}:[0-9]{1,10}\Z")]
Network = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9][A-Za-z0-9_.:-]*\Z")]

# The engines refuse a limit of less than 6 MiB.
Memory = Annotated[int, msgspec.Meta(ge=6 * 2**20, le=2**50)]
Bytes = Annotated[int, msgspec.Meta(ge=4096, le=2**50)]
Cpus = Annotated[float, msgspec.Meta(ge=0.01, le=10_000)]
Processes = Annotated[int, msgspec.Meta(ge=1, le=2**22)]


class Mount(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file or folder of this machine in a container.

    Args:
        source: the absolute path on this machine, which must exist.
        target: the absolute path in the container; by default the same.
        read_only: whether the kernel cannot write there.
    """

    source: Path
    target: Path | None = None
    read_only: bool = True


class ContainerKernel(KernelSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A kernel type that runs in a container.

    Args:
        image: the name of the image.
        command: the command line in the container; ``{connection_file}`` is filled in. The kernel
            must support ipc sockets, as ipykernel does.
        display_name: for people.
        language: the programming language.
        interrupt_mode: ``"signal"`` sends SIGINT to the kernel, and not to its child processes;
            ``"message"`` sends an interrupt_request.
        env: environment variables. The kernel inherits none.
        mounts: files and folders of this machine.
        cwd: how the working directory of a launch is mounted, at the same path: ``"read-write"``,
            ``"read-only"``, or ``"refused"``, which allows no working directory.
        memory: bytes of memory and swap space of all processes together; None means no limit.
        cpus: CPU time of all processes together, per second of real time; None means no limit.
        processes: number of processes and threads; None means no limit.
        tmp: bytes of the ``/tmp`` in memory; the rest of the file system is read-only.
        network: ``"none"``, or the name of a network of the engine. Kernels are reached by ipc
            sockets in any case.
        user: the user and the group in the container, as numbers. By default those of this program,
            or ``"65534:65534"`` (nobody) for root.
        pull: when the engine gets the image from the registry.
        detached: whether kernels outlive this program, unless a launch says otherwise.
        options: further options of ``podman run`` or ``docker run``. They may weaken the isolation.
    """

    image: Image
    mounts: tuple[Mount, ...] = ()
    cwd: Literal["read-write", "read-only", "refused"] = "read-write"
    memory: Memory | None = 2 * 2**30
    cpus: Cpus | None = None
    processes: Processes | None = 256
    tmp: Bytes = 64 * 2**20
    network: Network = "none"
    user: User | None = None
    pull: Literal["never", "missing", "always"] = "never"
    detached: bool = False
    options: tuple[Argument, ...] = ()


class ContainerSettings(ConfiguredKernels, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings of a ContainerProvider; see there."""

    kernels: Mapping[str, ContainerKernel] = {}
    engine: Argument = ""
    engine_options: tuple[Argument, ...] = ()
    folder: Path | None = None
