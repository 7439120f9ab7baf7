"""The device mesh, how arrays are split over it, and the paths of parameters. Imports only `errors`."""
