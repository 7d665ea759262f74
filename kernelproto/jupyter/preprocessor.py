"""nbconvert's ExecutePreprocessor with kernels that kernelproto launches; needs nbconvert."""

from __future__ import annotations

from nbconvert.preprocessors.execute import ExecutePreprocessor as _ExecutePreprocessor

from kernelproto.jupyter.notebook_client import UsesKernelProto


class ExecutePreprocessor(UsesKernelProto, _ExecutePreprocessor):
    """nbconvert's ExecutePreprocessor; see ``kernelproto.jupyter.NotebookClient``."""
