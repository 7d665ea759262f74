"""An extension of jupyter_server: it runs the server's kernels with kernelproto, in its process.

``jupyter-config/`` has the configuration file that enables it.
"""

# pyright: basic

from kernelproto import __version__

__all__ = ["__version__"]  # `jupyter server extension list` shows it


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    """Return the module that jupyter_server links and loads."""
    return [{"module": "kernelproto.jupyter.server.extension"}]
