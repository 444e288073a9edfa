"""``python -m vlmforensics.cli``."""

from vlmforensics.cli import main

main()
