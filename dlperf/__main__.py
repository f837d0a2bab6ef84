"""`python -m dlperf` is the command `dlperf`."""

from dlperf.cli import main

main()
