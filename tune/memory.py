"""Memory of a process that trains one model after another."""

import gc

import torch

_libraries_are_set_aside = False


def free_memory() -> None:
    """Frees what reference cycles hold, so that the next training finds the memory that the last one found.

    What is left after the first training (libraries, more than half a million objects) is set aside: looking through it
    took 0.3 s each time.
    """
    global _libraries_are_set_aside
    gc.collect()
    if not _libraries_are_set_aside:
        gc.freeze()
        _libraries_are_set_aside = True  # to ask `gc` would be to count them
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
