"""`python -m common.benchmarks check|prepare`: see prepare.py."""
from .prepare import main

main()
