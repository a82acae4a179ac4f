"""A graph as the C exporter works on it: operations, shapes in n, constants."""
