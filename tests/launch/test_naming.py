from __future__ import annotations

from kernelproto.exceptions import NoSuchKernel
from kernelproto.launch.naming import no_such_kernel


def test_nearest_come_first() -> None:
    error = no_such_kernel("pyhton3", ["ir", "python2", "Python3"], remedy="look again")
    assert isinstance(error, NoSuchKernel)
    assert error.name == "pyhton3"
    assert error.available == ("Python3", "python2", "ir")
    assert str(error) == ("no kernel type 'pyhton3'; there are Python3, python2, ir; look again")


def test_there_is_nothing() -> None:
    error = no_such_kernel("python3", [], remedy="install one")
    assert error.available == ()
    assert str(error) == "no kernel type 'python3'; there are none; install one"
