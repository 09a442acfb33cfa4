"""`python -m facever`: the same as the command `facever`."""

from facever.cli import main

if __name__ == "__main__":
    main()
