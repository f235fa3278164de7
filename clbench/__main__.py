"""`python -m clbench`, the same command; `torchrun` starts it in several processes."""

from clbench.cli.main import main

if __name__ == "__main__":
    main(prog_name="clbench")
