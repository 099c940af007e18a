"""`python -m geopipe`, for where the command is not in the path."""

from geopipe.cli.main import main

main()
