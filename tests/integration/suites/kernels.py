"""Kernels of several languages, for jupyter_kernel_test."""

from __future__ import annotations

import jupyter_kernel_test


class Python:
    """The samples that all kernels for Python have."""

    language_name = "python"
    file_extension = ".py"
    code_hello_world = "print('hello, world')"
    code_stderr = "import sys; print('test', file=sys.stderr)"
    completion_samples = ({"text": "zi", "matches": {"zip"}},)
    code_generate_error = "raise"
    code_execute_result = ({"code": "1+2+3", "result": "6"},)
    code_inspect_sample = "zip"


class TestIPykernel(Python, jupyter_kernel_test.KernelTests):
    kernel_name = "ipykernel"
    complete_code_samples = (
        "1",
        "print('hello, world')",
        "def f(x):\n  return x*2\n\n\n",
    )
    incomplete_code_samples = (
        "print('''hello",
        "def f(x):\n  x*2",
    )
    invalid_code_samples = ("import = 7q",)
    code_page_something = "zip?"
    code_display_data = (
        {
            "code": "from IPython.display import HTML, display; display(HTML('<b>x</b>'))",
            "mime": "text/html",
        },
    )
    code_history_pattern = "1?2*"
    supported_history_operations = ("tail", "search")
    code_clear_output = "from IPython.display import clear_output; clear_output()"


class TestXeusPython(Python, jupyter_kernel_test.KernelTests):
    kernel_name = "xpython"
    complete_code_samples = (
        "1",
        "print('hello, world')",
    )
    incomplete_code_samples = ("print('''hello",)


class TestBash(jupyter_kernel_test.KernelTests):
    kernel_name = "bash"
    language_name = "bash"
    file_extension = ".sh"
    code_hello_world = "echo hello, world"
    completion_samples = ({"text": "ech", "matches": {"echo"}},)
    code_generate_error = "false"


class TestIRkernel(jupyter_kernel_test.KernelTests):
    kernel_name = "ir"
    language_name = "R"
    file_extension = ".r"
    code_hello_world = 'cat("hello, world\\n")'
    complete_code_samples = (
        "1",
        "print('hello, world')",
        "f <- function(x) {x*2}",
    )
    incomplete_code_samples = (
        "print('hello",
        "f <- function(x) {x",
    )
    code_generate_error = "stop('x')"
    code_display_data = ({"code": "1+2+3", "mime": "text/plain"},)
