"""Sets resource limits on itself, then becomes the command: `confine.py nofile=64 -- COMMAND…`.

A program of its own and the standard library alone: it is run by its path, in a session's place,
with the session's pid, environment, descriptors and directory, and leaves nothing of itself.
"""

from __future__ import annotations

import os
import resource
import signal
import sys


def main(words: list[str]) -> None:
    """Set what the words before `--` say, and execute the words behind it."""
    end = words.index("--")
    command = words[end + 1 :]
    try:
        for word in words[:end]:
            name, given, value = word.partition("=")
            if name == "LC_CTYPE":  # Python coerced it at its own start
                os.environ.pop(name, None)
                os.environ.update({name: value} if given else {})
                continue
            number = getattr(resource, f"RLIMIT_{name.upper()}")
            # `nofile=64:` is the soft limit alone.
            text, soft, _ = value.partition(":")
            limit = resource.RLIM_INFINITY if text == "unlimited" else int(text)
            hard = resource.getrlimit(number)[1] if soft else limit
            resource.setrlimit(number, (limit, hard))
    except (OSError, ValueError, OverflowError) as error:
        sys.exit(f"cannot set the limit {word}: {error}")
    # Python ignores these; its child would too.
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvp(command[0], command)  # noqa: S606 - the words are the operator's own, no shell
    except OSError as error:
        sys.stderr.write(f"cannot start {command[0]!r}: {error.strerror}\n")
        os._exit(127 if isinstance(error, FileNotFoundError) else 126)


if __name__ == "__main__":
    main(sys.argv[1:])
