"""Finding kernel types and starting kernels: the only place that starts processes.

``finder.py`` asks the providers, ``providers.py`` says which kernel types there are, and
``local.py`` turns one of them into a running process. Nothing here talks to a kernel; that begins
with the ConnectionInfo that a launch returns.
"""
