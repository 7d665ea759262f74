"""The Python environments of a project and of this user, as kernel types ``env/NAME``.

``search.py`` finds and names the environments: those of the project (``project.py``), the active
one, and those of conda (``conda.py``). ``contents.py`` reads one environment, ``activation.py`` has
the variables that an activation sets, ``installer.py`` the command that installs ipykernel,
``kernels.py`` the description of the environment's kernel, and ``provider.py`` launches that
kernel.

A search reads files and runs no program. A search visits a limited number of folders, and never
walks a tree of folders.
"""
