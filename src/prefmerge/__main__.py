"""`python -m prefmerge`: the command line without its script."""

from prefmerge.cli import main

if __name__ == "__main__":
    main()
