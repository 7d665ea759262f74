"""Shows: kernels in synchronous code, without async.

Needs: kernelproto[ipykernel]
Run:   python examples/10_blocking.py
"""

from kernelproto import connect_kernel_blocking, run_kernel_blocking

with run_kernel_blocking("pyimport/kernel") as kernel:
    print(kernel.execute("6 * 7").text)

    # As in a terminal: output is printed as it arrives, and Ctrl-C interrupts the code.
    kernel.execute_interactive("for n in range(3): print('line', n)")

    with connect_kernel_blocking(kernel.connection_info) as client:
        print("a second client:", client.execute("n").text)
