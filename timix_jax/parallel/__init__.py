"""The device mesh, how arrays lie on it, and the names of parameters that the rules speak of."""
