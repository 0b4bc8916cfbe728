"""Small tables of common knowledge, for functions of words.

Compiled here from general knowledge, to be checked against what anyone may
read: names, capitals and currencies are those of ISO 3166 and 4217 as of 2024,
symbols and numbers of elements IUPAC's, spelling letters NATO's; animals,
plants, tools and words are a dictionary's. No table of another data set is
copied.

A concept is a named list of words. A relation is a named map of words.
"""

_COUNTRIES = """
France|Paris|Europe|euro|French; Germany|Berlin|Europe|euro|German;
Spain|Madrid|Europe|euro|Spanish; Italy|Rome|Europe|euro|Italian;
Poland|Warsaw|Europe|zloty|Polish; Sweden|Stockholm|Europe|krona|Swedish;
Norway|Oslo|Europe|krone|Norwegian; Greece|Athens|Europe|euro|Greek;
Hungary|Budapest|Europe|forint|Hungarian;
Iceland|Reykjavik|Europe|krona|Icelandic; Japan|Tokyo|Asia|yen|Japanese;
China|Beijing|Asia|yuan|Chinese; India|New Delhi|Asia|rupee|Hindi;
Thailand|Bangkok|Asia|baht|Thai; Vietnam|Hanoi|Asia|dong|Vietnamese;
Mongolia|Ulaanbaatar|Asia|tugrik|Mongolian; Nepal|Kathmandu|Asia|rupee|Nepali;
Iran|Tehran|Asia|rial|Persian; Israel|Jerusalem|Asia|shekel|Hebrew;
Indonesia|Jakarta|Asia|rupiah|Indonesian; Egypt|Cairo|Africa|pound|Arabic;
Kenya|Nairobi|Africa|shilling|Swahili; Ghana|Accra|Africa|cedi|English;
Nigeria|Abuja|Africa|naira|English; Morocco|Rabat|Africa|dirham|Arabic;
Ethiopia|Addis Ababa|Africa|birr|Amharic;
Angola|Luanda|Africa|kwanza|Portuguese; Senegal|Dakar|Africa|franc|French;
Brazil|Brasilia|South America|real|Portuguese;
Argentina|Buenos Aires|South America|peso|Spanish;
Chile|Santiago|South America|peso|Spanish;
Peru|Lima|South America|sol|Spanish;
Colombia|Bogota|South America|peso|Spanish;
Uruguay|Montevideo|South America|peso|Spanish;
Paraguay|Asuncion|South America|guarani|Guarani;
"""
_ELEMENTS = """
hydrogen|H|1|gas; helium|He|2|gas; lithium|Li|3|metal; carbon|C|6|solid;
nitrogen|N|7|gas; oxygen|O|8|gas; fluorine|F|9|gas; neon|Ne|10|gas;
sodium|Na|11|metal; magnesium|Mg|12|metal; aluminium|Al|13|metal;
sulfur|S|16|solid; chlorine|Cl|17|gas; argon|Ar|18|gas; potassium|K|19|metal;
calcium|Ca|20|metal; iron|Fe|26|metal; copper|Cu|29|metal; zinc|Zn|30|metal;
silver|Ag|47|metal; tin|Sn|50|metal; iodine|I|53|solid; gold|Au|79|metal;
lead|Pb|82|metal;
"""
_ANIMALS = """
dog|puppy|mammal|barks; cat|kitten|mammal|meows; cow|calf|mammal|moos;
horse|foal|mammal|neighs; sheep|lamb|mammal|bleats; goat|kid|mammal|bleats;
pig|piglet|mammal|grunts; lion|cub|mammal|roars; wolf|cub|mammal|howls;
mouse|pup|mammal|squeaks; duck|duckling|bird|quacks; goose|gosling|bird|honks;
hen|chick|bird|clucks; owl|owlet|bird|hoots; eagle|eaglet|bird|screams;
swan|cygnet|bird|hisses; pigeon|squab|bird|coos;
frog|tadpole|amphibian|croaks; salmon|smolt|fish|is silent;
eel|elver|fish|is silent; bee|larva|insect|buzzes;
moth|caterpillar|insect|is silent; cricket|nymph|insect|chirps;
fly|maggot|insect|buzzes;
"""
_WORDS = """
hot|cold; big|small; fast|slow; high|low; light|dark; old|young; rich|poor;
strong|weak; wet|dry; early|late; full|empty; hard|soft; loud|quiet; near|far;
open|closed;
"""
_PAST = """
go|went; see|saw; eat|ate; run|ran; take|took; give|gave; write|wrote;
sing|sang; swim|swam; buy|bought; bring|brought; think|thought; fly|flew;
know|knew; break|broke;
"""
_PLURALS = """
child|children; foot|feet; tooth|teeth; goose|geese; mouse|mice; man|men;
knife|knives; leaf|leaves; city|cities; box|boxes; ox|oxen; wolf|wolves;
"""
_NATO = """
A|Alfa; B|Bravo; C|Charlie; D|Delta; E|Echo; F|Foxtrot; G|Golf; H|Hotel;
K|Kilo; M|Mike; N|November; R|Romeo; S|Sierra; T|Tango; Z|Zulu;
"""
_LISTS = {
  "month": "January February March April May June July August September "
  "October November December",
  "weekday": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday",
  "planet": "Mercury Venus Earth Mars Jupiter Saturn Uranus Neptune",
  "number word": "zero one two three four five six seven eight nine ten eleven "
  "twelve",
  "Roman numeral": "I II III IV V VI VII VIII IX X XI XII",
  "fruit": "apple pear plum cherry banana mango lemon peach grape fig",
  "vegetable": "carrot potato onion spinach cabbage leek turnip celery radish",
  "string instrument": "violin cello guitar harp lute banjo viola mandolin",
  "wind instrument": "flute oboe clarinet trumpet bassoon trombone tuba",
  "ball sport": "football tennis basketball volleyball golf cricket rugby "
  "handball",
  "water sport": "swimming rowing sailing surfing diving canoeing",
  "colour": "red blue green yellow purple orange brown pink grey",
  "tool": "hammer saw chisel drill pliers wrench screwdriver axe",
  "garment": "shirt coat sock glove scarf skirt jacket hat trousers",
  "vehicle": "car bus lorry bicycle tram train motorcycle van",
  "part of the body": "arm leg knee elbow nose ear shoulder finger",
  "profession": "doctor teacher baker lawyer nurse carpenter plumber judge",
  "tree": "oak beech birch pine willow maple elm spruce",
  "piece of furniture": "chair table sofa desk wardrobe bed shelf stool",
  "shape": "circle square triangle rectangle pentagon ellipse hexagon",
}


def _rows(text: str) -> list[list[str]]:
  rows = " ".join(text.split("\n")).split(";")
  return [row.strip().split("|") for row in rows if row.strip()]


def _relation(text: str, column: int) -> dict[str, str]:
  return {row[0]: row[column] for row in _rows(text)}


_LISTED = {name: text.split() for name, text in _LISTS.items()}
_OF_GROUPS = {
  f"country in {place}": [r[0] for r in _rows(_COUNTRIES) if r[2] == place]
  for place in ("Europe", "Asia", "Africa", "South America")
} | {
  kind: [r[0] for r in _rows(_ANIMALS) if r[2] == kind]
  for kind in ("mammal", "bird", "insect")
}
_OF_GROUPS |= {
  name: [r[0] for r in _rows(_ELEMENTS) if r[3] == kind]
  for name, kind in (("metal", "metal"), ("gas", "gas"))
}
CONCEPTS: dict[str, list[str]] = _LISTED | _OF_GROUPS


def _after(words: list[str]) -> dict[str, str]:
  return dict(zip(words, words[1:] + words[:1]))


RELATIONS: dict[str, dict[str, str]] = {
  "capital of a country": _relation(_COUNTRIES, 1),
  "continent of a country": _relation(_COUNTRIES, 2),
  "currency of a country": _relation(_COUNTRIES, 3),
  "main language of a country": _relation(_COUNTRIES, 4),
  "country of a capital": {r[1]: r[0] for r in _rows(_COUNTRIES)},
  "symbol of an element": _relation(_ELEMENTS, 1),
  "atomic number of an element": _relation(_ELEMENTS, 2),
  "element of a symbol": {r[1]: r[0] for r in _rows(_ELEMENTS)},
  "young of an animal": _relation(_ANIMALS, 1),
  "class of an animal": _relation(_ANIMALS, 2),
  "what an animal does aloud": _relation(_ANIMALS, 3),
  "opposite of an adjective": _relation(_WORDS, 1),
  "past tense of a verb": _relation(_PAST, 1),
  "present tense of a past": {r[1]: r[0] for r in _rows(_PAST)},
  "plural of a noun": _relation(_PLURALS, 1),
  "singular of a plural": {r[1]: r[0] for r in _rows(_PLURALS)},
  "spelling word of a letter": _relation(_NATO, 1),
  "letter of a spelling word": {r[1]: r[0] for r in _rows(_NATO)},
  "month after a month": _after(_LISTED["month"]),
  "day after a day": _after(_LISTED["weekday"]),
  "planet behind a planet": _after(_LISTED["planet"]),
  "number of a number word": {
    word: str(i) for i, word in enumerate(_LISTED["number word"])
  },
  "number of a Roman numeral": {
    word: str(i + 1) for i, word in enumerate(_LISTED["Roman numeral"])
  },
  "Roman numeral of a number": {
    str(i + 1): word for i, word in enumerate(_LISTED["Roman numeral"])
  },
  "number of a month": {
    word: str(i + 1) for i, word in enumerate(_LISTED["month"])
  },
}
