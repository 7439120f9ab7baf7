"""The guard of the flip: captions that name left or right, and words that only look like it."""

import numpy as np
import pytest

from timix_jax.data.images.augment import Augment, sample_view
from timix_jax.data.images.side_words import mentions_side

SIDES = {
    "en": "a dog to the LEFT.|right-hand side|the leftmost cup|left/right|a left-hander|upper_right|topleft|leftwards",
    "joined": "left_hand|turn_left|leftside|rightfacing|turnLeft|SwipeRight|leftHand|LEFT2|2right|__left__|LEFTHAND",
    "letters": "ｌｅｆｔ|ＲＩＧＨＴ hand|𝐥𝐞𝐟𝐭|le\u00adft|the\u200bleft\u200b",
    "de": "Der Hund links|Links ein Hund|die rechte Hand|AUF DER LINKEN SEITE|rechts vom Baum|ein Linkshänder",
    "nl": "een man aan de linkerkant|rechtsboven|links van de boom|de rechterhand",
    "fr": "un chien à gauche|la main droite|côté droit|À DROITE",
    "es": "a la izquierda|mano derecha|el lado derecho",
    "pt": "à esquerda da árvore|lado direito",
    "it": "a sinistra|il braccio destro",
    "ca, ro": "a l'esquerra|la dreta|în stânga|la dreapta",
    "pl": "po lewej stronie|prawa ręka|w prawo|po PRAWEJ",
    "cs, sk": "vlevo|vpravo|levé oko|vľavo",
    "ru": "слева от дерева|в правом углу|ПРАВАЯ рука|налево",
    "uk": "ліворуч|права рука|праворуч",
    "hr, sr, bg": "lijevo|desno|десно|вляво|надясно",
    "sv, da, no": "till vänster|til venstre|til højre|høyre hånd",
    "fi, et": "vasemmalla|oikealla|oikea käsi|vasakul",
    "hu": "bal oldalon|jobbra|balra",
    "el": "αριστερά|ΔΕΞΙΑ|ΑΡΙΣΤΕΡΟΣ",
    "tr": "solda bir kedi|sol tarafta|sol elinde|SAĞDA|sağ taraf|sol şerit",
    "zh": "左边的狗|站在右側",
    "ja": "右手に|ひだり",
    "ko": "왼쪽에 있는 개|오른쪽|오른손|우측",
    "vi, th, id": "bên trái|tay phải|góc trên trái|ทางซ้าย|ด้านขวา|di sebelah kiri",
    "ar": "على اليسار|اليد اليمنى|من اليمين|يَسَار|باليد اليسرى",
    "fa, ur": "سمت چپ|سمت راست|بائیں طرف",
    "he": "בצד שמאל|מימין|ביד ימין|הימנית",
    "hi, mr": "सड़क के बाएं|दाईं ओर|दाएँ हाथ|बायां|दाहिने|डावीकडे",
    "bn, ta, te": "বাম দিকে|ডানদিকে|இடது|కుడి",
}
NO_SIDES = {
    "en": "a bright room|copyright|Copyright 2020|CopyRight|all rights reserved|cleft|upright bass|leftovers"
    "|righteous|outright|Wright|delight|Lefteris|a saga|Levi jeans|BrightRoom|upRight",
    "links": "a golf links|sausage links|links of the chain",
    "sol": "puesta de sol|pôr do sol sobre o mar|playa y sol|sol elegante",
    "rights": "alle Rechte vorbehalten|wszelkie prawa zastrzeżone|все права защищены|derechos reservados|droits",
    "other": "trái cây|산에 오른 남자|ขวาน|दबाएं|दिखाएं|בנימין|اليمني|jobb|डाक",
}


def _cases(table):
    return [
        pytest.param(text, id=f"{kind}: {text}")
        for kind in table
        for text in table[kind].split("|")
    ]


@pytest.mark.parametrize("text", _cases(SIDES))
def test_sides_are_found(text):
    assert mentions_side(["a", text])


@pytest.mark.parametrize("text", _cases(NO_SIDES))
def test_words_that_only_look_like_sides_are_not(text):
    assert not mentions_side([text])


def test_no_text_names_no_side():
    assert not mentions_side([])
    assert not mentions_side([""])


def test_images_of_such_texts_are_never_flipped():
    rng = np.random.default_rng(0)
    views = [sample_view(rng, Augment(), 8, 8, ["a", "on the left"]) for _ in range(50)]
    assert not any(view.flipped for view in views)
    flips = np.mean([sample_view(rng, Augment(), 8, 8, ["a"]).flipped for _ in range(1000)])
    assert 0.45 < flips < 0.55


def test_the_guard_draws_nothing():
    """Keep the random stream: crops and operations of resumed runs do not depend on the texts."""
    augment = Augment(crop_min=0.4, randaugment=2)
    for seed in range(20):
        one, two = (
            sample_view(np.random.default_rng(seed), augment, 64, 64, [text])
            for text in ("a dog", "ein Hund links")
        )
        assert (one.crop, one.operations) == (two.crop, two.operations)
