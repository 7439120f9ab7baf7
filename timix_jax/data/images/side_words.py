"""Texts that name left or right, which mirroring their image would make false.

Covered are the words for left and right of the languages below, in any case, in full-width letters and joined as in
`left_hand`, `turnLeft` or `leftside`. A word that also means something else (German `links` are English chain links,
Turkish `sol` is Spanish for sun) counts only where the words around it say so.
"""

import re
import unicodedata
from collections.abc import Sequence

# English joins them freely. Not "up" and "down": upright and downright are no sides.
_BEFORE = (
    "top bottom upper lower mid middle center centre front rear back far extreme stage turn turns turning turned face"
    " faces facing faced bear keep veer swipe arrow"
)
_AFTER = (
    "most hand hands handed hander handers ward wards side sides sided facing turn turns turning pointing looking"
    " leaning bound lane corner half center centre end wing winger back field fielder footed foot arm leg eye ear"
    " thumb arrow"
)
_DUTCH = (
    "hand kant arm been voet oog oor hoek zijde schouder poot vleugel helft bovenhoek onderhoek"
)

# Language → all forms.
_WORDS = {
    "en": " ".join(
        word
        for side in ("left", "right")
        for word in (
            side,
            *(side + part for part in _AFTER.split()),
            *(part + side for part in _BEFORE.split()),
        )
    )
    + " lefty lefties righty righties southpaw",
    "de": "rechts linke linken linker linkes linkem rechten rechter rechtes rechtem linksseitig rechtsseitig"
    " linkshänder linkshänderin rechtshänder rechtshänderin linkshändig rechtshändig linkskurve rechtskurve"
    " linksherum rechtsherum linksaußen rechtsaußen",
    "nl": "linksaf rechtsaf linksom rechtsom linksboven rechtsboven linksonder rechtsonder linksachter rechtsachter"
    " linksvoor rechtsvoor linkshandig rechtshandig "
    + " ".join(side + part for side in ("linker", "rechter") for part in _DUTCH.split()),
    "fr": "gauche gauches droite droites droit gaucher gauchère droitier droitière",
    "es": "izquierda izquierdas izquierdo izquierdos derecha derechas derecho zurdo zurda",
    "pt": "esquerda esquerdas esquerdo esquerdos direita direitas direito canhoto canhota",
    "it": "sinistra sinistre sinistro sinistri destra destre destro destri mancino mancina",
    "ca": "esquerra esquerre esquerres dreta dretes dret",
    "ro": "stânga stanga stângă stâng stângul dreapta dreaptă",
    "pl": "lewo lewa lewe lewy lewą lewej lewego lewemu lewym lewymi lewych prawe prawy prawą prawej prawego"
    " prawemu prawym prawymi prawych leworęczny praworęczny",
    "cs": "vlevo vpravo doleva doprava nalevo napravo zleva zprava levý levá levé levou levém levým levého levých"
    " pravý pravá pravé pravou pravém pravým pravého pravému pravých",
    "sk": "vľavo vpravo doľava naľavo zľava sprava ľavý ľavá ľavé ľavej ľavou ľavom ľavým ľavého pravej",
    "hr, sr": "lijevo lijeva lijeve lijevi lijevoj lijevom lijevu lijevog ulijevo levo levoj ulevo desno desna desne"
    " desni desnoj desnom desnu desnog udesno лево леве левој левом леву левог улево десно десна десне десни десној"
    " десном десну десног удесно",
    "bg": "ляво лява ляв левия левият лявата лявото вляво наляво отляво дясно дясна десен десния десният дясната"
    " дясното вдясно надясно отдясно",
    "ru": "левый левая левое левые левого левой левому левую левым левыми левых левом левее слева влево налево левша"
    " правый правая правое правые правого правой правому правую правым правыми правых правом правее справа"
    " вправо направо правша",
    "uk": "лівий ліва ліве ліві лівого лівої лівій лівому лівою ліву лівим лівими лівих ліворуч зліва вліво наліво"
    " лівіше шульга правий праве праві правої правій правою правим правими правих праворуч",
    "sv": "vänster vänstra vänsterhand vänsterhänt höger högra högerhand högerhänt",
    "da": "venstre venstrehånd venstrehåndet højre højrehånd højrehåndet",
    "no": "høyre høyrehånd høyrehendt venstrehendt",
    "fi": "vasen vasenta vasemman vasemmalla vasemmalle vasemmalta vasemmassa vasempaan vasempi vasenkätinen oikealla"
    " oikealle oikealta oikeassa oikeaan oikeanpuoleinen oikeakätinen",
    "et": "vasak vasakul vasakule vasakult paremal paremale paremalt",
    "lt": "kairė kairėje kairėn kairysis dešinė dešinėje dešinėn dešinysis",
    "hu": "balra balról baloldal baloldali baloldalon balkezes jobbra jobbról jobboldal jobboldali jobboldalon",
    "el": "αριστερά αριστερή αριστερής αριστερός αριστερό αριστερού αριστερα αριστερη αριστερος αριστερο"
    " δεξιά δεξιάς δεξιός δεξιό δεξιού δεξια δεξιος δεξιο",
    "tr": "solda soldan soldaki solunda solundaki solundan solak sağ sağa sağda sağdan sağdaki sağında sağındaki"
    " sağından sağı sağın",
    "id": "kiri kanan kidal",
    "tl": "kaliwa kaliwang kanang",
}

# Language → words that also mean something else, and what makes them a side.
_AMBIGUOUS = {
    # An English text has golf links, sausage links or chain links.
    "de, nl": (
        "links",
        r"(?s)\A(?!.*\b(?:a|the|and|with|at|for|from|by|this|that|golf|chain|sausage|cuff)\b)",
    ),
    "de": ("rechte", r"\brechte\b(?!\s+(?:vorbehalten|reserviert))"),
    "pl": ("prawo prawa", r"\bpraw[ao]\b(?!\s+(?:autorskie|zastrzeżone|jazdy|człowieka))"),
    "ru, uk": ("права", r"\bправа\s+(?:рука|нога|сторона|частина|стійка|стіна)\b"),
    "fi": (
        "oikea oikean",
        r"\boikean?\s+(?:käsi|käde|kätt|jal|puol|silm|korv|reuna|laita|ylä|ala)",
    ),
    "hu": ("bal jobb", r"\b(?:bal|jobb)\s+(?:oldal|kéz|kez|kar|láb|szem|fül|fél|fel|als)"),
    "tr": (
        "sol",
        r"\bsol\s+(?:taraf|yan|el(?:i|de)|kol|aya[kğ]|göz|kula|omuz|omz|bacak|üst|alt(?:ta)?\b|ön|arka|köşe|kenar)"
        r"|\bsol\b(?=.*[ğış])|[ğış].*\bsol\b",
    ),
    "vi": (
        "trái phải",
        r"\b(?:bên|tay|phía|chân|mắt|tai|vai|rẽ|quẹo|góc|cạnh|hướng|nửa|trên|dưới)\s+(?:trái|phải)\b",
    ),
}

# Language → patterns for scripts without spaces, with prefixes, or with vowel signs, which are no letters to `re`.
_PATTERNS = {
    "zh, ja": r"[左右]|ひだり|みぎ",
    "ko": r"왼|오른\s?(?:쪽|손|편|발|팔|눈|다리|귀|뺨|어깨|무릎|날개)|좌측|우측|좌회전|우회전|[좌우][상하]단",
    "th": r"ซ้าย|(?:ด้าน|ทาง|ฝั่ง|ข้าง|มือ|แขน|ขา|ตา|มุม|บน|ล่าง|เลี้ยว)ขวา|ขวามือ",
    "ar": r"\b[وفبلك]{0,2}(?:ال|لل?)?(?:(?:يسار|يمين)(?:ه|ها|ا|ك|ي|هم)?|يسرى|يمنى|[أا]يسر|[أا]يمن)\b",
    "fa": r"\b(?:چپ|راست)\b",
    "ur": r"\b(?:بائیں|بایاں|دائیں|دایاں)\b",
    "he": r"\b[בלמהושכ]{0,3}(?:שמאל|ימין|ימנ)(?:ה|י|ית|יים|יות|ו|ם|ך)?\b",
    "hi, mr": r"(?<![\u0900-\u097f])(?:[बद]ा(?:एं|एँ|यां|याँ|यीं|यें|ईं|ईँ|ये)|[बद]ाँय[ाीे]|दाहिन[ाीे]"
    r"|(?:डाव|उजव)(?:[ाीे]|ीकडे|्या))(?![\u0900-\u097f])",
    "bn": r"(?<![\u0980-\u09ff])(?:বাঁ|(?:বাম|ডান)ে?)(?:দিক|দিকে|পাশে|হাত|হাতে)?(?![\u0980-\u09ff])",
    "ta, te": r"இடது|வலது|ఎడమ|కుడి",
}

_SIDES = frozenset(" ".join(_WORDS.values()).casefold().split())
_IN_CONTEXT = {
    word: re.compile(pattern) for words, pattern in _AMBIGUOUS.values() for word in words.split()
}
_OTHER_SCRIPTS = re.compile("|".join(_PATTERNS.values()))
_FIRST_OTHER_SCRIPT = "\u0590"
_WORD = re.compile(r"[^\W\d_]+")
# turnLeft and leftHand, but not CopyRight.
_CAMEL = re.compile(
    r"(?<=[a-z])(?<!opy)(?<!up)(?:Left|Right)(?![a-z])|\b(?:[lL]eft|[rR]ight)(?=[A-Z][a-z])"
)
# Vowel signs of Arabic and Hebrew, which are usually left out, and the soft hyphen.
_OPTIONAL_MARKS = re.compile("[\u00ad\u0591-\u05bd\u05bf-\u05c7\u0640\u064b-\u065f\u0670]")


def mentions_side(texts: Sequence[str]) -> bool:
    """Return True if a text names left or right, which mirroring the image would make false."""
    return any(map(_mentions_side, texts))


def _mentions_side(text: str) -> bool:
    if not text.isascii():
        text = _OPTIONAL_MARKS.sub("", unicodedata.normalize("NFKC", text))
    folded = text.casefold()
    words = _WORD.findall(folded)
    if not _SIDES.isdisjoint(words):
        return True
    if not _IN_CONTEXT.keys().isdisjoint(words) and any(
        _IN_CONTEXT[word].search(folded) for word in words if word in _IN_CONTEXT
    ):
        return True
    if ("left" in folded or "right" in folded) and _CAMEL.search(text):
        return True
    return max(folded, default="") >= _FIRST_OTHER_SCRIPT and bool(_OTHER_SCRIPTS.search(folded))
