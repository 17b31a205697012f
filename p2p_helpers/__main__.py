"""`python -m p2p_helpers` is the command `p2p`."""

from .cli import main

if __name__ == "__main__":
    main()
