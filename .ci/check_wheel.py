"""Check kernelproto as it is installed here: run by ``make wheel`` in a clean environment."""

import sys
from importlib.metadata import distribution
from importlib.resources import files
from pathlib import Path

import kernelproto

installed = distribution("kernelproto")
scripts_and_modules = {path.parts[0] for path in installed.files or ()} - {".."}
scripts = {path.name for path in installed.files or () if path.parts[0] == ".."}

assert Path(kernelproto.__file__).is_relative_to(sys.prefix), kernelproto.__file__
assert scripts_and_modules == {"kernelproto", f"kernelproto-{installed.version}.dist-info"}
# The others enable the extension of jupyter_server, and are the plug-in of JupyterLab.
others = {"kernelproto.json", "package.json", "remoteEntry.js"}
assert scripts == {"kernelproto", *others}, scripts
assert files("kernelproto").joinpath("py.typed").is_file(), "py.typed is missing"
for name in ("page.html", "style.css", "script.js", "icon.svg"):
    page_file = files("kernelproto").joinpath("server", "dashboard", name)
    assert page_file.is_file(), f"{name} is missing"
assert installed.version == kernelproto.__version__
assert installed.metadata["License-Expression"] == "BSD-3-Clause"
assert installed.metadata["License-File"] == "LICENSE"

for provider in installed.entry_points.select(group="kernelproto.kernel_providers"):
    assert isinstance(provider.load().id, str), provider

plugins = {plugin.value for plugin in installed.entry_points.select(group="pytest11")}
assert plugins == {"kernelproto.pytest_plugin"}, plugins

print(f"kernelproto {installed.version} imports from its wheel")
