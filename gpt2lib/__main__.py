"""python -m gpt2lib is the gpt2lib command; torchrun starts it so."""

from gpt2lib.cli import main

if __name__ == "__main__":
    main()
