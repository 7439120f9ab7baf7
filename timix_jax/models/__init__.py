"""Models as pure functions over parameter trees; Flax stays inside this package."""
