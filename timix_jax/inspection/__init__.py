"""Inspection of a run before it starts: parameters, sharding, memory, FLOPs, and the step compiled for a TPU slice.

`info` and `compile` are modes of the program; `tables`, `hlo` and `topology` serve them. May import anything but main;
outside the package only main and the run summary import it.
"""
