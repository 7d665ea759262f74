"""Shows: the same from synchronous code: no async, no event loop in sight.

Needs: kernelproto[ipykernel]
Run:   python examples/10_blocking.py
"""

from kernelproto import connect_kernel_blocking, run_kernel_blocking

with run_kernel_blocking("pyimport/kernel") as kernel:
    print(kernel.execute("6 * 7").text)

    # As at a terminal: what the code writes is printed as it comes, and Ctrl-C interrupts it.
    kernel.execute_interactive("for n in range(3): print('line', n)")

    with connect_kernel_blocking(kernel.connection_info) as client:
        print("a second client:", client.execute("n").text)
