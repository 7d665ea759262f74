"""Dashboard: a page for people, with the kernels that they run."""

from kernelproto.server.dashboard.routes import PUBLIC, Dashboard, refuse

__all__ = ["PUBLIC", "Dashboard", "refuse"]
