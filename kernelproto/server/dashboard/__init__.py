"""Dashboard: a web page on which users see and control their kernels."""

from kernelproto.server.dashboard.routes import PUBLIC, Dashboard, refuse

__all__ = ["PUBLIC", "Dashboard", "refuse"]
