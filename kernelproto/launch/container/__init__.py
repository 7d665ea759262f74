"""Kernels in containers of podman or docker."""
