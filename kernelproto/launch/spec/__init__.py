"""Kernelspecs, launch parameters and launch plans."""
