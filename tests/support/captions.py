"""Captions to train small tokenizers on."""

CAPTIONS = [
    f"A {color} {thing} {place} the {other}."
    for color in ("red", "blue", "Green", "violet")
    for thing in ("square", "disc", "lemon", "skier's boat")
    for place in ("above", "below", "near")
    for other in ("sea", "house", "ånd", "mountains")
]
