"""Random captions scored by pycocoevalcap 1.2, for tests/fixtures/caption_scores.json.

Written where that package is installed: `pip install --no-deps pycocoevalcap==1.2 numpy`, then
`python tests/support/coco_caption_cases.py`.
"""

import json
import random
from pathlib import Path

FIXTURE = Path(__file__).parent.parent / "fixtures" / "caption_scores.json"
CASES = 60


def random_case(seed: int) -> dict:
    """Return captions of few words, so that n-grams match and repeat; lengths vary, and some captions are equal."""
    rng = random.Random(seed)
    vocabulary = [f"w{k}" for k in range(rng.choice([2, 4, 9, 30]))]
    images, most = rng.choice([1, 2, 5, 12]), rng.choice([1, 3, 5])

    def text(longest):
        return " ".join(rng.choices(vocabulary, k=rng.randint(1, longest)))

    references = [[text(14) for _ in range(rng.randint(1, most))] for _ in range(images)]
    candidates = [rng.choice([text(14), text(3), several[0]]) for several in references]
    return {"candidates": candidates, "references": references}


def main() -> None:
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    cases = []
    for seed in range(CASES):
        case = random_case(seed)
        wanted = dict(enumerate(case["references"]))
        found = {index: [text] for index, text in enumerate(case["candidates"])}
        bleu, _ = Bleu(4).compute_score(wanted, found, verbose=0)
        rouge, _ = Rouge().compute_score(wanted, found)
        cider, _ = Cider().compute_score(wanted, found)
        cases.append({"seed": seed, "bleu": bleu, "rouge_l": float(rouge), "cider": float(cider)})
    FIXTURE.write_text("[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n")


if __name__ == "__main__":
    main()
