"""Contexts: kernels for programs that run code over HTTP."""
