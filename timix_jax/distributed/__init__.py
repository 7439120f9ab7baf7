"""The processes of one run: joining them, what they tell one another, and how they end together."""
