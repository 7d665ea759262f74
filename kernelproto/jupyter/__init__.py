"""kernelproto inside the programs of Jupyter. Needs the extra ``jupyter``.

``provisioner.py`` launches the kernels of every program that uses jupyter_client. Only these
programs import this folder: the library itself loads neither traitlets nor tornado.
"""
