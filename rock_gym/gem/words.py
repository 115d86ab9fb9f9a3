"""English words for GEM's word games, where the user has no NLTK corpus of them.

GEM reads two lists of NLTK's ``words`` corpus, which is not part of the nltk package: a short one
of common words, and a dictionary. The short one stands below. The dictionary is the ``web2`` list
of the package english-words, where that is installed: the same one that NLTK's corpus holds.

The guest has a copy of this file, so it leans on the standard library alone.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterable
from typing import Any

__all__ = ["COMMON", "supply_words"]

_SHORT_LIST, _DICTIONARY = "en-basic", "en"

# Common words tend to be the ones that other words are built from. So these are the words of web2,
# which is in the public domain, that make up most of its compounds: ranked by how many entries
# begin with them and end in another entry, or the other way round, whichever is less; the first
# 110 of three letters, 200 of four and of five, 170 of six and of seven. A test derives them anew.
_COMMON_TEXT = """
acanth ace acid act action adjust aerial after ala albumin alcohol ale all aller amino ana angle
animal answer ant antic apostle ara arch are arist arm arsenic art ascetic ash ass ast astatic
aster back bag bake bal balance ball ballast balloon band bang bank bar bark base basket bat
bath beadle beam bear beard bed before beggar bell belly bench ber berry bet bill bin bind bird
birth bishop bit bitter black blast blind block blood bloom blossom blow blunder board boat body
bolt bone book bore borough bottle bottom bound bow boycott brain branch bread breadth break
breast breath bridge bright broken broker brood brother brush buck bug bur burn bush cabinet
cake cal call camera camphor cannon cap capital captain car carbon card cardia carp cart case
cast cat catch cate cause cella cellar cement censure cent center central cession chair chamber
change channel chanter charge chat che check chief child chin church cine circuit citizen city
clapper class classic close cloth clothes cloud coat cock color column comb come command commend
comment common compass complex cone conform connect consent content contest control copy corn
corner correct cotton council count country court cover crack cracker creator credit crest
critic crop cross crow crown crust cup current curtain cut cycloid cyst dactyl dar dash day
deacon decimal demand den dent deposit derm derma develop devil dial die dish dock doctor dog
don down draft dragon drain draught draw dress drift drive drop ear edge elastic element end
enter equal ethane ethical ethnic ethyl eugenic ever expert extract extreme eye face faction
factor falcon fall fanatic fashion father fatigue fault federal feed feeling fellow felon
ferment fiction field figure fin fine finger fire fish fisher flash fleece flight flint flood
flow flower fluid flush flutter fly fold folk foot force foreign forest fork form formal formic
forth forward fossil frame free freight friend front fruit furnish fusion gall gan gang gar
garment gate gear gen gene general genetic genteel ger glacial glass goddess gon good goose
gospel grace graft grain granite graph graphic grass grave green griffin ground guard gun habit
hair hall hammer hand hard hatch hawk head heart heaven hen hepatic her hide hill hold holiday
hood hoof hook hopper horn horse hound house human hydroxy ice ideal incrust iron jack jacket
jockey joint keeper key kin kind king kingdom knife knot labor lace lan lance land latch late
lay leader leaf lease leather leg letter level liberal light lighter lin line lion lit literal
lock logic logical long love low lower machine maiden mal man manager mar mark market marshal
martyr mast master mastoid match mate meal meaning measure mel melon men mention meter method
methyl metric mill miracle mist modern mon moral morning morph mortal mother motion motive motor
mount mouse mouth nail nation natural neck nephros net neutral night nine noise nominal non
normal nose note nourish number nut off office officer one orchid organic out over page pan
paper parent part partial partner party passage passion patch path patient pattern ped pen penny
pension people per perfect period perish pet phenol phenyl phrase physic pick picture pie piece
pillar pin pipe pit pitch place plane plant plasm plasma plastic plate play plume pod poetic
point poison pole politic poll popular port porter portion possess post pot powder power practic
praise preach prefect prelate press priest print printer process proctor produce product promise
proof prophet psychic public pyramid quality quarter race rack radical rail railway rain ram ran
ration read reason rebel rector red reform regal rel rest ret reward rick rid ridge right ring
rival road rock roller romance roof room root rope rose rough round rum sack saddle sail saint
sal salt saw scape scent school score screw script search season secret section secular seed
segment self semic sen sensual ser servant service set shackle shadow shaft shake sheet shell
sheriff shield shift ship shirt shock shoe shoot shop shore shot shower shroud sick side sider
sides sight sign silver simple sing siphon sister skin slander sleeve slide slip snatch social
sole solid some son sore sound speak speaker special speech sperm spheric spin spiral spire
spirit spoon spread spring square stable stack stage stain stalk stall stand stander star starch
state station stay stem step steward stick sting stitch stock stoma stone storm story strain
strand strap stream street stress stretch strict strike string strong student sty style subject
success suck suit summer support surface sweet swing system table tail tal tale tan tangle tar
tariff taste teacher technic tee ten tenant tender tent test textual the there therm thing think
thorn thought thrift throat through thyroid tick tide tight tile time tin tobacco ton tongue
tooth top tor tower toxic track tract tractor tragic train traitor trap travel tree trench tress
trick turn type tyrant uncle under vassal verse villain vine vision waiter walk wall wander war
ward ware wash washer watch water way wealth weed weigh weight well wheel whence where wife will
wind wing wisdom wise wit with woman wood word work workman world worm writer yard
"""

COMMON = tuple(_COMMON_TEXT.split())


def supply_words(directory: str) -> None:
    """Let NLTK find a ``words`` corpus, and keep it from trying the network.

    Does nothing unless nltk is imported, nor where NLTK finds a corpus of the user's own.

    Args:
        directory: Where the corpus is put; may be there from an earlier call.
    """
    nltk: Any = sys.modules.get("nltk")
    if nltk is None or directory in nltk.data.path:
        return
    # It is called at each construction of a word game, and takes seconds to fail.
    nltk.download = nltk.downloader.download = lambda *args, **kwargs: False
    try:
        nltk.data.find("corpora/words")
    except LookupError:
        _write_corpus(os.path.join(directory, "corpora", "words"))
        nltk.data.path.append(directory)


def _write_corpus(directory: str) -> None:
    if os.path.isdir(directory):
        return
    os.makedirs(directory)
    _write_list(os.path.join(directory, _SHORT_LIST), COMMON)
    try:
        english_words: Any = importlib.import_module("english_words")
    except ImportError:
        return
    # A set has no order that lasts, and the same seed must find the same words.
    _write_list(
        os.path.join(directory, _DICTIONARY), sorted(english_words.get_english_words_set(["web2"]))
    )


def _write_list(path: str, words: Iterable[str]) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.writelines(f"{word}\n" for word in words)
