"""What a machine does to a program, said in one line: no space, no memory, a file system that fails."""

import errno
import mmap
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from omegaconf import DictConfig

from mcl_lab.errors import RunFailed

# PyTorch's allocators say so in RuntimeErrors. It is not imported here: what submits a sweep does without.
_OUT_OF_MEMORY = re.compile(
    r"can't allocate memory|not enough memory|out of memory|bad_alloc|Cannot allocate memory|ALLOC_FAILED"
)
# oneDNN, which computes convolutions on CPUs, says this for want of memory and for whatever else it cannot do.
_PERHAPS_OUT_OF_MEMORY = re.compile(r"could not (create|execute) a (primitive|memory)")
# Bytes: it asks for half a megabyte, or for a scratchpad of tens; a result may be free again by now.
_LITTLE = 256 * 2**20
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT}


@contextmanager
def in_one_line(config: DictConfig, folder: Path) -> Iterator[None]:
    """Raise RunFailed for a full or failing file system and for want of memory: what happened, to which run, the remedy.

    folder: of the run, or of the sweep that `config` is a run of.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise RunFailed(_memory_line(config)) from error
    except OSError as error:
        if error.errno == errno.ENOMEM:
            raise RunFailed(_memory_line(config)) from error
        reason = " ".join(filter(None, [error.strerror or str(error), error.filename and f"({error.filename})"]))
        remedy = "make room; then" if error.errno in _NO_SPACE else "once that is mended,"
        raise RunFailed(f"{folder}: {reason}; {remedy} the same command goes on from what is whole") from error


def is_out_of_memory(error: Exception) -> bool:
    """Whether it says that there is no more memory, in the words of PyTorch, CUDA, oneDNN or Python."""
    if isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(str(error)):
        return True
    return bool(_PERHAPS_OUT_OF_MEMORY.search(str(error))) and not _system_gives(_LITTLE)


def _system_gives(size: int) -> bool:
    """Whether this process may have `size` bytes more; they are not touched, and given back at once."""
    try:
        mmap.mmap(-1, size).close()
    except OSError:
        return False
    return True


def _memory_line(config: DictConfig) -> str:
    networks = " and ".join(config.pair.peers[key].name for key in sorted(config.pair.peers))
    return (
        f"out of memory on trainer.device={config.trainer.device} with data.batch_size={config.data.batch_size} for "
        f"{networks}: lower data.batch_size, or take trainer.precision=bf16 or smaller networks; where other programs took "
        "the memory, the same command goes on"
    )
