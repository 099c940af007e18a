"""`python -m geopipe`, for where the command is not in the path."""

from geopipe.cli import main

main()
