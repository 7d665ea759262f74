"""Claims: which program owns a kernel that outlives programs.

Theory of operation
-------------------
The first owner is the program in the kernel's record. Each change of the owner, even to no owner,
adds a claim with the next number, and the claim with the highest number counts. A claim is a
symbolic link whose target is the owner, as JSON: the system makes a link and its contents in one
step, and refuses a second link of the same name. So of several programs that read the same claim
and want the kernel, one gets the next number, and the others see that program's claim. There is no
lock, so a killed program leaves no lock behind: a claim of a program that has ended is void.

A program reads the numbers by listing the folder, which may miss a link that is made meanwhile.
The two latest claims are kept, so a list misses both only if the owner changes twice meanwhile; and
after each claim the list is read again. A program withdraws its claim if a later claim exists.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from operator import attrgetter

import msgspec

from kernelproto.exceptions import DiscoveryError, KernelInUse
from kernelproto.launch.address.paths import is_claim
from kernelproto.launch.own_files import is_own_link
from kernelproto.launch.process.process_id import ProcessId
from kernelproto.shortage import shortage

logger = logging.getLogger(__name__)

_SUFFIX = ".claim-"
_NUMBER = re.compile(rf"{re.escape(_SUFFIX)}(\d{{1,18}})\Z")

# Another program may change the owner between two steps.
_ROUNDS = 100


class Ownership:
    """The program that owns a kernel.

    Args:
        record: the path of the kernel's record.
        kernel_id: a UUID.
        first_owner: the program that has started the kernel.
        detached: whether the kernel was started detached.
        is_gone: returns whether a program has ended; by default ``ProcessId.is_gone``, which is not
            known of programs on other machines.
    """

    def __init__(
        self,
        record: str,
        kernel_id: str,
        first_owner: ProcessId,
        detached: bool,
        *,
        is_gone: Callable[[ProcessId], bool] = attrgetter("is_gone"),
    ) -> None:
        self._record = record
        self._kernel_id = kernel_id
        self._first_owner = first_owner
        self._detached = detached
        self._is_gone = is_gone

    @property
    def holder(self) -> ProcessId | None:
        """The present owner of the kernel; None if that program has ended or released the kernel.

        If the claims on the kernel cannot be read, the first owner counts.
        """
        try:
            return self._holder(latest_claim(self._record))
        except (OSError, ValueError):
            return self._first_owner

    def claim(self) -> None:
        """Make this program the owner of the kernel.

        Raises:
            KernelInUse: a running program owns the kernel, perhaps this one.
            DiscoveryError: the claims on the kernel cannot be read or written.
        """
        with self._errors_named():
            this_program = ProcessId.of(os.getpid())
            for _ in range(_ROUNDS):
                latest = latest_claim(self._record)
                holder = self._holder(latest)
                if holder is not None:
                    raise self._in_use(holder, is_here=holder == this_program)
                if add_claim(self._record, this_program, after=latest) is not None:
                    return
            raise OSError("its owner changes all the time")

    def claim_leftover(self) -> bool:
        """Claim a kernel without an owner, to end it; return whether this program may end it.

        A program adopts a kernel by writing a claim. So this program may end a kernel whose claim
        cannot be written, as on a full disk.
        """
        try:
            self.claim()
        except KernelInUse:
            return False
        except DiscoveryError:
            pass
        return True

    def release(self) -> None:
        """Release the kernel of this program, so that another program can adopt the kernel.

        Raises:
            DiscoveryError: the claims on the kernel cannot be read or written.
        """
        # Not found: the kernel has ended, and another program has removed the folder of the record.
        with self._errors_named(), suppress(FileNotFoundError):
            add_claim(self._record, None, after=latest_claim(self._record))

    def let_go(self) -> None:
        """Release the kernel, and log a failure to write this, as on a full disk."""
        try:
            self.release()
        except DiscoveryError as error:
            logger.warning("only the end of this program releases a kernel: %s", error)

    def _holder(self, latest: Claim | None) -> ProcessId | None:
        owner = self._first_owner if latest is None else latest.owner
        return None if owner is None or self._is_gone(owner) else owner

    def _in_use(self, holder: ProcessId, *, is_here: bool) -> KernelInUse:
        program = f"process {holder.pid}"
        if is_here:
            program += ", which is this program"
        elif holder.is_here:
            program += ", which runs"
        else:
            program += f" on another machine, {holder.machine.host!r}, or in another container"
        kind = "" if self._detached else "was not started detached and "
        return KernelInUse(
            f"the kernel {self._kernel_id} {kind}belongs to {program}: adopt it after that program "
            "has detached from it or ended; connect_kernel connects without",
            pid=holder.pid,
        )

    @contextmanager
    def _errors_named(self) -> Generator[None]:
        try:
            yield
        except (OSError, ValueError) as error:
            raise DiscoveryError(
                f"the owner of kernel {self._kernel_id} cannot be read or changed in the folder "
                f"{os.path.dirname(self._record)!r}: {shortage(error) or error}"
            ) from error


class Claim(msgspec.Struct, frozen=True):
    """One claim on a kernel.

    Args:
        number: the position of the claim in the sequence of claims.
        owner: the program that owns the kernel; None for a released kernel.
    """

    number: int
    owner: ProcessId | None


def latest_claim(record: str) -> Claim | None:
    """Return the claim that counts; None if the owner has not changed.

    Args:
        record: the path of the kernel's record.

    Raises:
        OSError: the claims cannot be read, or belong to another user.
        ValueError: the contents of the claim are not valid.
    """
    for _ in range(_ROUNDS):
        number = max(_numbers(record), default=0)
        if number == 0:
            return None
        path = _path(record, number)
        try:
            if not is_own_link(path):
                raise PermissionError(f"{path} is not a claim of this user")
            owner = msgspec.json.decode(os.readlink(path), type=ProcessId | None)
        except FileNotFoundError:
            continue
        return Claim(number, owner)
    raise OSError("its owner changes all the time")


def add_claim(record: str, owner: ProcessId | None, *, after: Claim | None) -> Claim | None:
    """Make a program the owner of a kernel, unless another program was faster.

    Args:
        record: the path of the kernel's record.
        owner: the program; None releases the kernel.
        after: the claim that counted before, from latest_claim().

    Returns:
        The claim; None if another claim followed *after*.

    Raises:
        OSError: the claim cannot be written.
    """
    number = 1 if after is None else after.number + 1
    path = _path(record, number)
    try:
        os.symlink(msgspec.json.encode(owner).decode(), path)
    except FileExistsError:
        return None
    if max(_numbers(record), default=0) != number:
        _remove(path)
        return None
    for old in list(_numbers(record)):
        if old < number - 1:
            _remove(_path(record, old))
    return Claim(number, owner)


def remove_claims(record: str) -> None:
    """Remove all claims on a kernel after the end of its process."""
    for number in list(_numbers(record)):
        _remove(_path(record, number))


def remove_lone_claims(folder: str) -> None:
    """Remove the claims in a folder of records on kernels that have no record any more."""
    with suppress(OSError):
        for name in os.listdir(folder):
            record = os.path.join(folder, f"{name.partition('.')[0]}.json")
            if is_claim(name) and not os.path.lexists(record):
                _remove(os.path.join(folder, name))
        os.rmdir(folder)  # an error if not empty


def _path(record: str, number: int) -> str:
    return f"{os.path.splitext(record)[0]}{_SUFFIX}{number}"


def _numbers(record: str) -> Iterator[int]:
    folder, name = os.path.split(os.path.splitext(record)[0])
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return
    for found in names:
        if found.startswith(name) and (match := _NUMBER.fullmatch(found, len(name))):
            yield int(match[1])


def _remove(path: str) -> None:
    with suppress(OSError):  # another program has removed the claim
        os.unlink(path)
