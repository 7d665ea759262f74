"""Discover, launch, supervise and talk to Jupyter kernels, on asyncio and Trio."""
