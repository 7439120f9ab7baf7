"""Optimisers and learning-rate schedules. Imports only `errors` and `parallel`."""
