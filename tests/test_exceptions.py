"""The exception tree: as drawn, and every leaf of it fit to be copied, pickled and raised often."""

from __future__ import annotations

import copy
import pickle
import re

import pytest

from kernelproto import exceptions
from kernelproto.exceptions import KernelProtoError, fresh

TREE = {
    "KernelProtoError": (Exception,),
    "ProtocolError": (KernelProtoError,),
    "LocalProtocolError": (exceptions.ProtocolError,),
    "RemoteProtocolError": (exceptions.ProtocolError,),
    "MalformedMessage": (exceptions.RemoteProtocolError,),
    "InvalidSignature": (exceptions.RemoteProtocolError,),
    "ReplayedMessage": (exceptions.RemoteProtocolError,),
    "ReplyLost": (exceptions.RemoteProtocolError,),
    "DiscoveryError": (KernelProtoError,),
    "KernelInUse": (exceptions.DiscoveryError,),
    "NoSuchKernel": (exceptions.DiscoveryError, LookupError),
    "InvalidKernelSpec": (exceptions.DiscoveryError, ValueError),
    "LaunchError": (KernelProtoError,),
    "KernelExitedEarly": (exceptions.LaunchError,),
    "KernelNotReady": (exceptions.LaunchError, TimeoutError),
    "IPykernelMissing": (exceptions.LaunchError,),
    "InvalidLaunchParameter": (exceptions.LaunchError, ValueError),
    "KernelDied": (KernelProtoError,),
    "KernelRestarted": (exceptions.KernelDied,),
    "ClientClosed": (KernelProtoError,),
    "ExecutionError": (KernelProtoError,),
    "ExecutionTimeout": (exceptions.ExecutionError, TimeoutError),
    "KernelUnresponsive": (KernelProtoError, TimeoutError),
    "KernelUnreachable": (KernelProtoError, TimeoutError),
    "OutputOverflow": (KernelProtoError,),
    "UnsupportedRequest": (KernelProtoError,),
    "WrongProcess": (KernelProtoError,),
    "WrongEventLoop": (KernelProtoError,),
    "PoolError": (KernelProtoError,),
    "PoolFull": (exceptions.PoolError,),
    "QuotaExceeded": (exceptions.PoolError,),
    "NotebookError": (KernelProtoError,),
    "InvalidNotebook": (exceptions.NotebookError, ValueError),
    "InvalidParameter": (exceptions.NotebookError, ValueError),
    "CellTimeout": (exceptions.NotebookError, TimeoutError),
    "InvalidSettings": (KernelProtoError, ValueError),
    "RegistryError": (KernelProtoError,),
    "AuthenticatorUnavailable": (KernelProtoError,),
}

FACTS = {
    "ReplyLost": {"result": "outputs"},
    "KernelInUse": {"pid": 123},
    "NoSuchKernel": {"name": "spec/pyhton", "available": ("spec/python", "spec/r")},
    "InvalidKernelSpec": {"path": "/kernels/r/kernel.json", "key": "argv"},
    "KernelExitedEarly": {"command": ("R", "--slave"), "returncode": -9, "stderr": "killed"},
    "KernelNotReady": {"phase": "kernel_info_reply", "seconds": 60.0, "stderr": "loading"},
    "IPykernelMissing": {"prefix": "/p/.venv", "command": ("uv", "add", "ipykernel")},
    "ClientClosed": {"ended": "culled", "goes_on": False},
    "KernelDied": {"returncode": 1, "reason": "out of memory"},
    "KernelRestarted": {"returncode": -9, "reason": None},
    "ExecutionError": {"ename": "KeyError", "evalue": "'x'", "traceback": ("one", "two")},
    "ExecutionTimeout": {
        "seconds": 1.0,
        "result": "outputs",
        "restarted": True,
        "ename": "KeyboardInterrupt",
        "evalue": "",
        "traceback": ("one", "two"),
    },
    "KernelUnresponsive": {"seconds": 5.0, "result": "outputs"},
    "OutputOverflow": {"discarded_messages": 3, "discarded_bytes": 4096},
    "WrongProcess": {"pid": 123},
    "PoolError": {"limit": 50},
    "PoolFull": {"limit": 50},
    "QuotaExceeded": {"limit": 1},
    "CellTimeout": {"index": 3, "seconds": 60.0},
}

DUPLICATES = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda error: pickle.loads(pickle.dumps(error)),
    "fresh": fresh,
}


def example(name: str) -> KernelProtoError:
    kind: type[KernelProtoError] = getattr(exceptions, name)
    return kind("what happened", **FACTS.get(name, {}))


def test_tree_is_complete() -> None:
    defined = {
        name
        for name, value in vars(exceptions).items()
        if isinstance(value, type) and issubclass(value, BaseException)
    }
    assert defined == TREE.keys()


@pytest.mark.parametrize("name", TREE)
def test_place_in_the_tree(name) -> None:
    assert getattr(exceptions, name).__bases__ == TREE[name]


def test_tree_is_as_drawn() -> None:
    drawn, path = {}, []
    for indent, name, other in re.findall(
        r"^    ([|` -]*)(\w+)(?: \((\w+)\))?", exceptions.__doc__, re.MULTILINE
    ):
        path[len(indent) // 3 :] = [name]
        drawn[name] = (*path[-2:-1], *filter(None, [other]))
    assert drawn.pop("KernelProtoError") == ()
    assert drawn == {
        name: tuple(base.__name__ for base in bases)
        for name, bases in TREE.items()
        if name != "KernelProtoError"
    }


@pytest.mark.parametrize("name", TREE)
def test_facts_are_attributes_and_the_message_is_all_of_the_text(name) -> None:
    error = example(name)
    assert str(error) == "what happened"
    assert vars(error) == FACTS.get(name, {})


@pytest.mark.parametrize("name", TREE)
def test_message_is_enough(name) -> None:
    error = getattr(exceptions, name)("what happened")
    assert str(error) == "what happened"
    assert vars(error).keys() == FACTS.get(name, {}).keys()


@pytest.mark.parametrize("duplicate", DUPLICATES.values(), ids=DUPLICATES)
@pytest.mark.parametrize("name", TREE)
def test_duplicate_says_the_same(name, duplicate) -> None:
    error = example(name)
    again = duplicate(error)
    assert again is not error
    assert type(again) is type(error)
    assert again.args == error.args
    assert vars(again) == vars(error)


def test_fresh_copy_keeps_the_cause_and_loses_the_traceback() -> None:
    cause = OSError("no such file")
    with pytest.raises(exceptions.LaunchError) as caught:
        raise example("LaunchError") from cause
    again = fresh(caught.value)
    assert again.__cause__ is cause
    assert again.__traceback__ is None
    assert caught.value.__traceback__ is not None


class Uncopyable(Exception):
    def __init__(self, one: object, two: object) -> None:
        super().__init__("only one")


def test_foreign_exception_that_cannot_be_copied_is_itself() -> None:
    error = Uncopyable(1, 2)
    assert fresh(error) is error


def test_note_on_one_copy_is_on_no_other() -> None:
    error = example("KernelDied")
    error.add_note("for all")
    again = fresh(error)
    again.add_note("for one")
    assert again.__notes__ == ["for all", "for one"]
    assert fresh(error).__notes__ == ["for all"]
