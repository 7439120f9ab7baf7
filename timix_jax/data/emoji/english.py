"""Names of emoji as English noun phrases: "a lemon", "two pairs of scissors", "three wolves"."""

import re

_NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five"}

# Names that do not read as countable things: signs, buttons, letters, directions, hand signals,
# materials, activities, scenes. Their concepts are excluded.
_UNCOUNTABLE_PATTERN = re.compile(
    r"button|arrow|keycap|o'clock|-thirty|index pointing|Japanese|"
    r"symbol|input |_|exclamation|question mark|dash|prohibited|\bno \b|^no |potable|"
    r"level|speaker (low|medium|high)|muted|sun behind|globe showing|circled|suit$|"
    r"(facing|wards|oncoming) (hand|fist)|^palm|tilted|busts?\b|-no-evil|showing|"
    r"blood type|(black|white|red|blue|green|brown|orange|purple|yellow|small|large|medium).* "
    r"(circle|square|diamond)$|triangle|lower-?case|upper-?case"
)
_UNCOUNTABLE_NAMES = re.compile(
    "ATM sign|Aquarius|Aries|Cancer|Capricorn|England|Gemini|Leo|Libra|Mrs. Claus|"
    "OK hand|Ophiuchus|Pisces|Sagittarius|Santa Claus|Scorpio|Scotland|Statue of Liberty|"
    "Taurus|Tokyo tower|Virgo|Wales|ZZZ|airplane arrival|airplane departure|"
    "anatomical heart|antenna bars|bacon|badminton|baggage claim|bald|"
    "ballot box with ballot|baseball|basketball|bell with slash|biohazard|bow and arrow|"
    "bowling|bread|breast-feeding|bridge at night|broccoli|building construction|butter|"
    "call me hand|camping|card index dividers|carp streamer|chains|"
    "chart increasing with yen|check box with check|check mark|children crossing|cityscape|"
    "cityscape at dusk|clapping hands|closed mailbox with lowered flag|"
    "closed mailbox with raised flag|collision|construction|cooked rice|cooking|copyright|"
    "couch and lamp|couple with heart|cricket game|cross mark|crossed fingers|crossed flags|"
    "curly hair|curly loop|currency exchange|curry rice|custard|customs|cut of meat|dango|"
    "dashing away|diamond with a dot|divide|dizzy|dotted six-pointed star|double curly loop|"
    "drop of blood|droplet|dvd|e-mail|ear with hearing aid|eight-spoked asterisk|"
    "envelope with arrow|eyes|family|female sign|field hockey|fire|fireworks|flag in hole|"
    "fleur-de-lis|flower playing cards|fog|foggy|folded hands|fondue|footprints|"
    "fork and knife|fork and knife with plate|garlic|globe with meridians|hammer and pick|"
    "hammer and wrench|hand with fingers splayed|hear-no-evil monkey|heart decoration|"
    "heart exclamation|herb|high voltage|hole|hollow red circle|horse racing|hot beverage|"
    "hot springs|hourglass not done|houses|hundred points|ice|ice hockey|inbox tray|"
    "incoming envelope|infinity|information|kiss|lacrosse|leaf fluttering in wind|"
    "leafy green|left luggage|left speech bubble|linked paperclips|litter in bin sign|"
    "locked|locked with key|locked with pen|love-you gesture|mahjong red dragon|male sign|"
    "man's shoe|martial arts uniform|mate|men holding hands|men's room|milky way|minus|"
    "mobile phone off|mobile phone with arrow|money with wings|kaaba|mount fuji|"
    "moon viewing ceremony|"
    "multiply|musical notes|nail polish|name badge|night with stars|nut and bolt|oden|om|"
    "open hands|open mailbox with lowered flag|open mailbox with raised flag|outbox tray|"
    "page facing up|palms up together|part alternation mark|passport control|paw prints|"
    "people hugging|people with bunny ears|people wrestling|performing arts|"
    "person in lotus position|person in steamy room|person in suit levitating|pinched fingers|"
    "ping pong|place of worship|plus|pool 8 ball|popcorn|radioactive|raised back of hand|"
    "raising hands|red hair|registered|rescue worker's helmet|restroom|revolving hearts|"
    "right anger bubble|sake|salt|selfie|shallow pan of food|sign of the horns|"
    "skull and crossbones|soap|softball|spaghetti|sparkles|star and crescent|sunrise|"
    "sunrise over mountains|sunset|sushi|sweat droplets|tennis|thumbs down|thumbs up|"
    "trade mark|two hearts|umbrella on ground|umbrella with rain drops|unlocked|"
    "vibration mode|victory hand|vulcan salute|warning|water closet|water wave|wedding|"
    "white hair|woman and man holding hands|woman's clothes|women holding hands|women's room|"
    "wood|writing hand|yin yang"
)

# Plural names, counted with a measure word.
_MEASURES = {
    "ballet shoes": "pair",
    "blueberries": "handful",
    "books": "stack",
    "bookmark tabs": "set",
    "briefs": "pair",
    "cherries": "pair",
    "chopsticks": "pair",
    "admission tickets": "pair",
    "clinking beer mugs": "pair",
    "clinking glasses": "pair",
    "control knobs": "set",
    "crossed swords": "pair",
    "film frames": "strip",
    "french fries": "portion",
    "glasses": "pair",
    "gloves": "pair",
    "goggles": "pair",
    "grapes": "bunch",
    "jeans": "pair",
    "lungs": "pair",
    "nesting dolls": "set",
    "pancakes": "stack",
    "peanuts": "handful",
    "prayer beads": "string",
    "scissors": "pair",
    "shopping bags": "pair",
    "shorts": "pair",
    "skis": "pair",
    "socks": "pair",
    "sunglasses": "pair",
}
_RENAMED = {
    "1st place medal": "first place medal",
    "2nd place medal": "second place medal",
    "3rd place medal": "third place medal",
    "american football": "American football",
    "automobile": "car",
    "baguette bread": "baguette",
    "beach with umbrella": "beach with an umbrella",
    "bottle with popping cork": "bottle with a popping cork",
    "bowl with spoon": "bowl with a spoon",
    "bubble tea": "cup of bubble tea",
    "camera with flash": "camera with a flash",
    "candy": "piece of candy",
    "canned food": "can of food",
    "cat with wry smile": "cat with a wry smile",
    "chart decreasing": "falling chart",
    "chart increasing": "rising chart",
    "cheese wedge": "wedge of cheese",
    "cup with straw": "cup with a straw",
    "dna": "strand of DNA",
    "face with hand over mouth": "face with a hand over the mouth",
    "face with head-bandage": "face with a head bandage",
    "face with medical mask": "face with a medical mask",
    "face with monocle": "face with a monocle",
    "face with open mouth": "face with an open mouth",
    "face with raised eyebrow": "face with a raised eyebrow",
    "face with steam from nose": "face with steam from the nose",
    "face with symbols on mouth": "face with symbols on the mouth",
    "face with thermometer": "face with a thermometer",
    "face with tongue": "face with tongue out",
    "face without mouth": "face without a mouth",
    "fish cake with swirl": "fish cake with a swirl",
    "frowning face with open mouth": "frowning face with an open mouth",
    "hourglass done": "hourglass",
    "headphone": "set of headphones",
    "heart with arrow": "heart with an arrow",
    "heart with ribbon": "heart with a ribbon",
    "house with garden": "house with a garden",
    "light rail": "light rail train",
    "luggage": "piece of luggage",
    "meat on bone": "piece of meat on a bone",
    "notebook with decorative cover": "notebook with a decorative cover",
    "page with curl": "page with a curl",
    "person beard": "person with a beard",
    "person blond hair": "person with blond hair",
    "person bouncing ball": "person bouncing a ball",
    "person gesturing NO": "person saying no",
    "person gesturing OK": "person saying OK",
    "person getting haircut": "person getting a haircut",
    "person getting massage": "person getting a massage",
    "person in bed": "person in a bed",
    "person in tuxedo": "person in a tuxedo",
    "person raising hand": "person raising a hand",
    "person rowing boat": "person rowing a boat",
    "person taking bath": "person taking a bath",
    "person tipping hand": "person tipping a hand",
    "person wearing turban": "person wearing a turban",
    "person with crown": "person with a crown",
    "person with skullcap": "person with a skullcap",
    "person with veil": "person with a veil",
    "rolling on the floor laughing": "face rolling on the floor laughing",
    "shaved ice": "bowl of shaved ice",
    "smiling face with halo": "smiling face with a halo",
    "smiling face with tear": "smiling face with a tear",
    "squinting face with tongue": "squinting face with tongue out",
    "star-struck": "star-struck face",
    "sun with face": "sun with a face",
    "teacup without handle": "teacup without a handle",
    "thread": "spool of thread",
    "winking face with tongue": "winking face with tongue out",
    "woman with headscarf": "woman with a headscarf",
    "yarn": "ball of yarn",
}
_IRREGULAR = {
    "biceps": "biceps",
    "bison": "bison",
    "blowfish": "blowfish",
    "buffalo": "buffaloes",
    "child": "children",
    "deer": "deer",
    "die": "dice",
    "elf": "elves",
    "fish": "fish",
    "foot": "feet",
    "knife": "knives",
    "leaf": "leaves",
    "man": "men",
    "mango": "mangoes",
    "merperson": "merpeople",
    "moai": "moai",
    "mosquito": "mosquitoes",
    "mouse": "mice",
    "ox": "oxen",
    "person": "people",
    "potato": "potatoes",
    "scarf": "scarves",
    "sheaf": "sheaves",
    "snowman": "snowmen",
    "squid": "squid",
    "superhero": "superheroes",
    "tomato": "tomatoes",
    "tooth": "teeth",
    "tornado": "tornadoes",
    "volcano": "volcanoes",
    "wolf": "wolves",
    "woman": "women",
}
# The noun that takes the plural comes before the first of these …
_AFTER_NOUN = frozenset(("with", "without", "of", "in", "on", "at", "to", "for", "over"))
# … or is the first word, if a participle follows it.
_LEADING_NOUN = frozenset(("person", "face", "man", "woman"))
_AN = re.compile(r"(?i)(?!uni|euro|ewe|one|us|ufo|uk)[aeiou]|hour|honest|x-")
_THE_COUNTRY = re.compile(
    r"Islands|Republic|Territor|United|Netherlands|Philippines|Bahamas|Gambia|Maldives|Comoros|"
    r"Union|Lands|^Isle|^Central"
)


def readable(name: str) -> str:
    """Turn the `emoji` package's name (`":woman’s_hat:"`) into words (`"woman's hat"`)."""
    words = name.strip(":").replace("_", " ").replace("’", "'").replace(" & ", " and ")
    words = re.sub(r" \((?!blood)[^)]*\)", "", words)
    return words.replace(" SAR China", "")


def flag_name(country: str) -> str:
    """Return the name of a country's flag: `"flag of the Bahamas"`."""
    words = readable(country).replace("and Grenadines", "and the Grenadines")
    words = words.replace("and South Sandwich", "and the South Sandwich")
    the = "the " if _THE_COUNTRY.search(words) and " the " not in words else ""
    return f"flag of {the}{words}"


def is_countable(name: str) -> bool:
    """Return True if "a …" and "two …" make sense for a name returned by `readable`."""
    return not _UNCOUNTABLE_NAMES.fullmatch(name) and not _UNCOUNTABLE_PATTERN.search(name)


def phrase(name: str, count: int = 1) -> str:
    """Return a noun phrase for `count` (1 to 5) drawings of a concept: "a lemon", "two lemons"."""
    if name in _MEASURES:
        measure = _MEASURES[name]
        counted = measure if count == 1 else _plural_word(measure)
        counted = f"{counted} of {name}"
    else:
        words = _RENAMED.get(name, name)
        counted = words if count == 1 else _plural(words)
    if count > 1:
        return f"{_NUMBERS[count]} {counted}"
    return f"{'an' if _AN.match(counted) else 'a'} {counted}"


def head_noun(name: str) -> str:
    """Return the head noun of a name: "face" for "grinning face with sweat"."""
    parts = _RENAMED.get(name, name).split(" ")
    return parts[_head(parts)]


def _head(parts: list[str]) -> int:
    if parts[0] in _LEADING_NOUN:
        return 0
    return next((i for i, part in enumerate(parts) if part in _AFTER_NOUN), len(parts)) - 1


def _plural(words: str) -> str:
    parts = words.split(" ")
    if parts[0] == "woman's":
        parts[0] = "women's"
    head = _head(parts)
    parts[head] = _plural_word(parts[head])
    return " ".join(parts)


def _plural_word(word: str) -> str:
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if re.search(r"[^aeiou]y$", word):
        return word[:-1] + "ies"
    if re.search(r"(s|x|z|ch|sh)$", word):
        return word + "es"
    return word + "s"
