"""`python -m harness` is `kadstorm`."""

from harness.cli import main

if __name__ == "__main__":
    main(prog_name="kadstorm")
