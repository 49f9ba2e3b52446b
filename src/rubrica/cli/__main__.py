"""``python -m rubrica.cli``."""

from rubrica.cli import main

main()
