"""Run the host by path: ``python -I -S host/__main__.py FOLDER``."""

import importlib
import os
import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec

# The folder of programs becomes a package without being on sys.path, where the files would hide
# installed packages of the same names.
_PACKAGE = "programs"


def run() -> None:
    """Import the host from the folder above, and run the host."""
    programs = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    spec = PathFinder.find_spec(_PACKAGE, [os.path.dirname(programs)])
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[_PACKAGE] = module
    spec.loader.exec_module(module)
    importlib.import_module(f"{_PACKAGE}.host.main").main(sys.argv[1:])


if __name__ == "__main__":
    run()
