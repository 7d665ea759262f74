"""Kernels of a host: a program that outlives this one. See programs/host for the other side."""
