"""Spend less time around the code of a cell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .hook import IOPUB_THREAD, KERNEL, SHELL, Hook, Need, find
from .publishing import SENT_SECONDS, runs, wait_until_sent

FORMATTER = "IPython.core.formatters:BaseFormatter"
OWN_DISPLAY = "IPython.core.formatters:IPythonDisplayFormatter"
MIME_BUNDLE = "IPython.core.formatters:MimeBundleFormatter"

# The types whose objects have no method such as _repr_html_.
PLAIN = frozenset(
    {bool, bytes, complex, dict, float, frozenset, int, list, set, str, tuple, type(None)}
)

STOCK_TRANSFORMERS = "IPython.core.inputtransformer2"


class ReplyOnceSent:
    """The part of an IPythonKernel that makes the metadata of a reply.

    ipykernel sleeps for half a millisecond before each reply, so that outputs come before it. Here
    it waits until the IOPub thread has sent them.
    """

    def __init__(self: Any, **kwargs: Any) -> None:
        stock: Any = super()
        stock.__init__(**kwargs)
        if self._execute_sleep == find(KERNEL)._execute_sleep.default_value:  # not configured
            self._execute_sleep = 0.0

    def finish_metadata(self: Any, parent: Any, metadata: Any, reply_content: Any) -> Any:
        """Return the metadata, once all outputs before the reply were sent."""
        if self.iopub_thread is not None and runs(self.iopub_thread):
            wait_until_sent(self.iopub_thread, SENT_SECONDS)
        stock: Any = super()
        return stock.finish_metadata(parent, metadata, reply_content)


class TransformOnce:
    """The part of a ZMQInteractiveShell that transforms the code of a cell.

    ipykernel and IPython both transform it. Here the second one gets the result of the first. If
    users have added transformers, these may have effects, and are called as often as before.
    """

    transformed: tuple[str, str] | None = None

    def transform_cell(self: Any, raw_cell: str) -> str:
        """Return the code with magics and shell commands as Python code."""
        known, self.transformed = self.transformed, None
        if known is not None and known[0] is raw_cell and self.has_stock_transformers():
            return str(known[1])
        stock: Any = super()
        cell: str = stock.transform_cell(raw_cell)
        self.transformed = raw_cell, cell
        return cell

    def has_stock_transformers(self: Any) -> bool:
        """Return whether all transformers are IPython's own."""
        manager = self.input_transformer_manager
        transformers = [
            *manager.cleanup_transforms,
            *manager.line_transforms,
            *self.input_transformers_post,
        ]
        return all(
            getattr(transformer, "__module__", type(transformer).__module__) == STOCK_TRANSFORMERS
            for transformer in transformers
        )


def remember_parameters(_: Any) -> None:
    """Examine the parameters of the method that runs a cell once, not at each execution."""
    module = find("ipykernel.ipkernel")
    module._accepts_parameters = remembering(module._accepts_parameters)


def remembering(accepts: Callable[[Any, list[str]], dict[str, Any]]) -> Any:
    """Return the function, with a memory of its last result."""
    last: tuple[Any, Any, dict[str, Any]] = (None, None, {})

    def accepts_parameters(meth: Any, param_names: list[str]) -> dict[str, Any]:
        nonlocal last
        function = getattr(meth, "__func__", meth)
        if last[0] is not function or last[1] != param_names:
            last = function, list(param_names), accepts(meth, param_names)
        return last[2]

    return accepts_parameters


def format_plain_values_once(_: Any) -> None:
    """Let only the formatter of plain text format values of Python's own types."""
    for place in (FORMATTER, OWN_DISPLAY):
        formatter = find(place)
        formatter.__call__ = leaving_out(PLAIN, formatter.__call__, lambda: None)
    formatter = find(MIME_BUNDLE)
    formatter.__call__ = leaving_out(PLAIN, formatter.__call__, lambda: ({}, {}))


def leaving_out(
    types: frozenset[type], stock: Callable[..., Any], nothing: Callable[[], Any]
) -> Any:
    """Return the method that formats an object, but no object of some types without a printer.

    Args:
        types: the types.
        stock: the method of IPython.
        nothing: makes the result for an object that has no such format.
    """

    def call(self: Any, obj: object, *args: Any, **kwargs: Any) -> Any:
        """Compute the format for an object."""
        if type(obj) not in types or (
            self.type_printers or self.deferred_printers or self.singleton_printers
        ):
            return stock(self, obj, *args, **kwargs)
        return nothing()

    return call


REPLY = Hook(
    name="reply",
    needs=[
        Need(f"{KERNEL}.finish_metadata", "self, parent, metadata, reply_content"),
        Need(
            "ipykernel.kernelbase:Kernel.execute_request",
            "self, stream, ident, parent",
            "flush _execute_sleep sleep finish_metadata send",
        ),
        Need(f"{IOPUB_THREAD}.schedule", "self, f", "thread is_alive"),
    ],
    mixins={KERNEL: ReplyOnceSent},
)

PARAMETERS = Hook(
    name="parameters",
    needs=[
        Need("ipykernel.ipkernel:_accepts_parameters", "meth, param_names", "signature"),
        Need(
            f"{KERNEL}.do_execute",
            "self, code, silent, store_history, user_expressions, allow_stdin, *, cell_meta, "
            "cell_id",
            "_accepts_parameters",
        ),
    ],
    install=remember_parameters,
)

TRANSFORM = Hook(
    name="transform",
    needs=[
        Need(
            f"{SHELL}.transform_cell",
            "self, raw_cell",
            "input_transformer_manager prefilter_manager input_transformers_post",
        ),
        Need("IPython.core.inputtransformer2:TransformerManager.transform_cell", "self, cell"),
        Need(
            "IPython.core.inputtransformer2:TransformerManager.__init__",
            "self",
            "cleanup_transforms line_transforms",
        ),
    ],
    mixins={SHELL: TransformOnce},
)

FORMAT = Hook(
    name="format",
    needs=[
        Need(f"{FORMATTER}.__call__", "self, obj", "enabled lookup get_real_method print_method"),
        Need(f"{OWN_DISPLAY}.__call__", "self, obj", "enabled lookup get_real_method print_method"),
        Need(
            f"{MIME_BUNDLE}.__call__",
            "self, obj, include, exclude",
            "enabled lookup get_real_method print_method",
        ),
        Need(f"{MIME_BUNDLE}._check_return", "self, r, obj"),
        Need(f"{FORMATTER}.lookup", "self, obj", "singleton_printers lookup_by_type"),
        Need(f"{FORMATTER}.lookup_by_type", "self, typ", "type_printers _in_deferred_types"),
        Need(f"{FORMATTER}._in_deferred_types", "self, cls", "deferred_printers type_printers"),
    ],
    install=format_plain_values_once,
)
