"""What stands around the graphs in C: the header, the functions that a program calls, and the test program."""
