"""``python -m rubrica``."""

from rubrica.cli import main

main()
