"""`python -m robustmdiff`: the command line."""

from robustmdiff.cli.main import main

main()
