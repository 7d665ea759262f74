"""Kernels as jobs of a batch system.

``system.py`` is the interface of a batch system, ``slurm.py`` implements it for Slurm. The rest
works with any of them.
"""
