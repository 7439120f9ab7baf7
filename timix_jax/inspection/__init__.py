"""What is said of a run before it starts: parameters, memory, and the compiled step for a TPU slice."""
