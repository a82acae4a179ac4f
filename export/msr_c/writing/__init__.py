"""Writing the operations of a graph in C."""
