"""Pictures for people: mixing sheets, training curves, comparison charts."""
