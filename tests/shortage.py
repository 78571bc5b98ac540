"""Leave this process without a descriptor for a while."""

from __future__ import annotations

import contextlib
import os
import resource
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def without_descriptors() -> Iterator[None]:
    """Let nothing more be opened within; what is needed there has to be imported before."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.ExitStack() as taken:
        first = os.open(os.devnull, os.O_RDONLY)
        taken.callback(os.close, first)
        # Few, so that to take them all takes no time.
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, first + 32), hard))
        taken.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        with contextlib.suppress(OSError):
            while True:
                taken.callback(os.close, os.open(os.devnull, os.O_RDONLY))
        yield
