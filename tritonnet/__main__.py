"""`python -m tritonnet`: the command-line program from a plain checkout."""

from tritonnet.cli import main

if __name__ == "__main__":
    main()
