"""`python -m flowbind`: the command line."""

from flowbind.cli import main

main()
