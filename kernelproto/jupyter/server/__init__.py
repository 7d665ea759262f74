"""An extension of jupyter_server that runs its kernels with kernelproto, in the same process.

``jupyter-config/`` has the configuration file that enables the extension.
"""

# pyright: basic

from importlib.metadata import version

__version__ = version("kernelproto")  # `jupyter server extension list` shows it


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    """Return the module that jupyter_server links and loads."""
    return [{"module": "kernelproto.jupyter.server.extension"}]
