"""`python -m msr_runtime.cli` is the `msr` command. torchrun starts it in this form."""

from msr_runtime.cli import main

main()
