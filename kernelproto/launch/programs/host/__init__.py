"""The host: a program that runs kernels for other programs of a user, and outlives them.

Run as ``python -I -S host/__main__.py FOLDER``, or from the archive that ``kernelproto.host`` makes
for other machines. The host needs Python 3.9 and the standard library, and imports nothing of
kernelproto except the files of this folder and ``watchdog.py``.

Theory of operation
-------------------
There is one host for a user and a machine; a lock in FOLDER decides between two that start at once.
The host listens on a socket in FOLDER, which only the user can enter. The host starts kernels,
connects to their channels, and numbers every message of a kernel. The messages wait in a log with a
limit (message_log.py) until the owner of the kernel has acknowledged them. A program that was
killed or disconnected attaches again and continues after the last received message.

The host is one loop in one thread, and never waits for a kernel or a program. A kernel without an
owner is ended after the linger time. The host ends with its last kernel. If the host is killed, a
watchdog, which is a fork of the host, ends the kernels and removes their files.

    frames      PURE: the frames on the host's socket
    zmtp        PURE: the protocol of ZeroMQ, as far as a client of a kernel needs it
    message_log the messages of one kernel, in memory and in files
    channel     the connection to one channel of a kernel
    process     starts the process of a kernel, and reaps it
    kernel      one kernel: its process, channels, log and owner
    connection  the connection of one program
    requests    the requests of programs
    tls         connections over tcp, for a host in a pod
    server      the loop
"""
