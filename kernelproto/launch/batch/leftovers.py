"""Removing the files and batch jobs of programs that have ended.

A job without an owner ends after some time, see programs/batch_job.py; until then a program may
adopt the kernel. So only these are removed here: the folders of kernels whose jobs have ended, and
jobs of programs that ended before storing the id of the job and the address of the kernel.
"""

from __future__ import annotations

import logging

import anyio.to_thread

from kernelproto.launch.batch.folder import JobFolder
from kernelproto.launch.batch.manager import job_name
from kernelproto.launch.batch.system import BatchSystem

logger = logging.getLogger(__name__)


async def remove_leftovers(system: BatchSystem, base: str) -> int:
    """Remove the leftovers of programs that have ended; return the number of kernels.

    Args:
        system: the batch system.
        base: the folder with the folders of the kernels.

    Raises:
        BatchError: the batch system does not answer.
    """
    # The folders first: each folder is made before the job.
    folders = await anyio.to_thread.run_sync(lambda: list(JobFolder.all_in(base)))
    if not folders:
        return 0
    live = {job.name for job in (await system.jobs()).values() if job.phase != "ended"}
    removed = 0
    for folder in folders:
        record = folder.record
        name = job_name(record.kernel_id)
        is_placed = name in live and bool(record.place)
        if is_placed and await anyio.to_thread.run_sync(folder.has_address):
            continue
        if not await anyio.to_thread.run_sync(folder.ownership.claim_leftover):
            continue
        if name in live:
            await system.cancel(name)
        await anyio.to_thread.run_sync(folder.remove)
        removed += 1
        logger.info("removed the files of kernel %s, whose program has ended", record.kernel_id)
    return removed
