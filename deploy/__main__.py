"""`python -m deploy` is `celerity`, for where the command is not on the path."""

from deploy.cli import main

main()
