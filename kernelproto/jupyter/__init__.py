"""kernelproto inside the programs of Jupyter. Needs the extra ``jupyter``.

``provisioner.py`` launches the kernels of every program that uses jupyter_client, ``client.py`` has
jupyter_client's classes, ``notebook_client.py`` nbclient's. Only these programs import this folder:
the library itself loads neither traitlets nor tornado.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kernelproto.jupyter.notebook_client import NotebookClient

__all__ = ["NotebookClient"]


def __getattr__(name: str) -> Any:
    # Imported here, because jupyter_client itself needs only the provisioner.
    if name == "NotebookClient":
        from kernelproto.jupyter.notebook_client import NotebookClient

        return NotebookClient
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
