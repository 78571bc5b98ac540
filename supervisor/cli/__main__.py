"""`python -m supervisor.cli` is `ptsup`."""

from supervisor.cli.entry import main

main()
