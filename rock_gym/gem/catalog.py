"""Every id that gem-llm 0.1.0 ships, and what is known of each without importing GEM.

The table is checked in, because importing GEM costs a second and 113 MB and changes the process
that does it. A test holds it against GEM's own registry.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from rock_gym.errors import SpecError

__all__ = [
    "GEM_VERSION",
    "RECORDS",
    "SHARED",
    "Record",
    "check_known",
    "find",
    "gym_id",
    "suggest",
]

GEM_VERSION = "0.1.0"

# How many environments share a sandbox where an action is only parsed.
SHARED = 64

_NAMES = {
    "game": """
        GuessTheNumber-v0-hard GuessTheNumber-v0-easy GuessTheNumber-v0-random
        Mastermind-v0-hard Mastermind-v0-random Mastermind-v0-easy
        Minesweeper-v0-easy Minesweeper-v0-hard Minesweeper-v0-random
        Wordle-v0-hard Wordle-v0-easy Wordle-v0-random
        FifteenPuzzle-v0-random FifteenPuzzle-v0-easy FifteenPuzzle-v0-hard
        Hangman-v0-random Hangman-v0-easy Hangman-v0-hard
        Sudoku-v0-easy Sudoku-v0-hard Sudoku-v0-random
        TowerofHanoi-v0-easy TowerofHanoi-v0-hard TowerofHanoi-v0-random
        Game2048-v0-easy Game2048-v0-hard Game2048-v0-extreme-hard Game2048-v0-random
        Sokoban-v0-easy Sokoban-v0-hard Sokoban-v0-random
        Crosswords-v0-easy Crosswords-v0-hard Crosswords-v0-random
        WordSearch-v0-easy WordSearch-v0-hard WordSearch-v0-random
    """,
    "math": "ASDiv2K GSM8K Math12K Math8K-3to5 Orz57K DeepScaleR40K Geometry3K",
    "code": "CodeContest Taco8k PrimeIntellect15k",
    "logic": "RuleTaker-d0 RuleTaker-d1 RuleTaker-d2 RuleTaker-d3 RuleTaker-d5",
    "qa": "NaturalQuestions HotpotQA",
    "rg": """
        composite complex_arithmetic intermediate_integration polynomial_equations
        polynomial_multiplication simple_equations simple_integration ab base_conversion
        binary_alternation binary_matrix caesar_cipher count_primes cryptarithm game_of_life
        game_of_life_halting graph_color group_anagrams isomorphic_strings jugs letter_counting
        letter_jumble manipulate_matrix number_filtering number_sorting palindrome_generation
        palindrome_partitioning pool_matrix ransom_note rotate_matrix rotten_oranges
        sentence_reordering spell_backward spiral_matrix string_insertion string_manipulation
        string_splitting string_synthesis word_ladder word_sequence_reversal word_sorting arc_1d
        arc_agi rearc basic_arithmetic bitwise_arithmetic calendar_arithmetic chain_sum count_bits
        decimal_arithmetic decimal_chain_sum dice fraction_simplification gcd gsm_symbolic lcm
        leg_counting number_format power_function prime_factorization products time_intervals bf
        codeio color_cube_rotation figlet_font modulo_grid needle_haystack number_sequence
        rectangle_count rubiks_cube boxnet countdown emoji_mystery futoshiki kakurasu knight_swap
        mahjong_puzzle maze mini_sudoku n_queens puzzle24 rush_hour sokoban sudoku survo
        tower_of_hanoi tsumego advanced_geometry simple_geometry course_schedule
        family_relationships largest_island quantum_lock shortest_path acre list_functions aiw
        circuit_logic knights_knaves propositional_logic self_reference syllogism zebra_puzzles
    """,
    "eval": """
        MATH500 AMC OlympiadBench Minerva AIME24 CodeContest QaOpen 2Wiki PopQA TriviaQA HotpotQA
        Bamboogle NaturalQuestions Musique
    """,
}

_EVAL_MATH = frozenset({"MATH500", "AMC", "OlympiadBench", "Minerva", "AIME24"})

_NEEDS = {
    # Their constructors raise on the arguments that they are registered with.
    "game:FifteenPuzzle-v0-random": "broken",
    "game:Crosswords-v0-random": "broken",
    # It cannot do without a configuration, and GEM passes none on.
    "rg:composite": "broken",
    "game:Crosswords-v0-easy": "pandas",
    "game:Crosswords-v0-hard": "pandas",
    # The other word games take the short list of common words, which we supply.
    "game:WordSearch-v0-hard": "words",
    "game:WordSearch-v0-random": "words",
}

# Their graders pass what the action says to eval(), straight or through sympy's parser.
_RG_EXECUTES = frozenset(
    {
        "binary_matrix",
        "countdown",
        "intermediate_integration",
        "n_queens",
        "polynomial_multiplication",
        "puzzle24",
        "simple_integration",
        "spiral_matrix",
        "string_insertion",
    }
)

# The order in which they walk a set decides questions or answers. The guest fixes the hash seed.
_HASH_DEPENDENT = frozenset(
    {
        "rg:isomorphic_strings",
        "rg:knight_swap",
        "rg:polynomial_multiplication",
        "rg:ransom_note",
        "rg:word_ladder",
    }
)

_GEM_ID = re.compile(
    r"(?P<category>[^:]+):(?P<name>.+?)(?:-v(?P<version>\d+)(?:-(?P<variant>.+))?)?"
)


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of one environment.

    Attributes:
        gem_id: GEM's id, such as ``"game:Sokoban-v0-easy"``.
        gym_id: The gymnasium id, such as ``"gem-game/Sokoban-easy-v0"``.
        category: What stands before the colon of the GEM id.
        family: The game, or reasoning_gym's data set, or for environments that are built on a data
            set what their answers are: ``"math"``, ``"code"``, ``"qa"`` or ``"logic"``.
        needs: What it lacks in a plain installation: ``"words"`` (a dictionary), ``"pandas"``,
            ``"data set"``, ``"broken"`` (in GEM itself), or None.
        executes_actions: Whether it may run what an action says as code.
        hash_dependent: Whether its texts depend on Python's hash seed, which the guest fixes.
    """

    gem_id: str
    gym_id: str
    category: str
    family: str
    needs: str | None
    executes_actions: bool
    hash_dependent: bool

    @property
    def offline(self) -> bool:
        """Whether it works in a plain installation without a network."""
        return self.needs is None

    @property
    def envs_per_sandbox(self) -> int:
        """How many of it may share a sandbox unless the user says otherwise."""
        return 1 if self.executes_actions else SHARED


def gym_id(gem_id: str) -> str:
    """Return the gymnasium id of a GEM id: gymnasium wants the version at the end.

    Raises:
        ValueError: If it is not of the form ``category:name``.
    """
    match = _GEM_ID.fullmatch(gem_id)
    if match is None:
        raise ValueError(f"a GEM id is of the form category:name, and {gem_id!r} is not")
    variant = f"-{match['variant']}" if match["variant"] else ""
    return f"gem-{match['category']}/{match['name']}{variant}-v{match['version'] or 0}"


def _family(category: str, name: str) -> str:
    if category == "game":
        return name.partition("-")[0]
    if category == "rg":
        return name
    if category == "eval":
        return "math" if name in _EVAL_MATH else "code" if name == "CodeContest" else "qa"
    return category


def _record(category: str, name: str) -> Record:
    gem_id = f"{category}:{name}"
    family = _family(category, name)
    on_data = category not in ("game", "rg")
    return Record(
        gem_id=gem_id,
        gym_id=gym_id(gem_id),
        category=category,
        family=family,
        needs="data set" if on_data else _NEEDS.get(gem_id),
        executes_actions=name in _RG_EXECUTES if category == "rg" else family in ("math", "code"),
        hash_dependent=gem_id in _HASH_DEPENDENT,
    )


RECORDS: tuple[Record, ...] = tuple(
    _record(category, name) for category, names in _NAMES.items() for name in names.split()
)
"""Every environment, in the order in which GEM registers them."""

_BY_GEM_ID = {record.gem_id: record for record in RECORDS}


def find(gem_id: str) -> Record | None:
    """Return the record of a GEM id, or None if GEM does not ship it."""
    return _BY_GEM_ID.get(gem_id)


def suggest(text: str, most: int = 3) -> list[str]:
    """Return the GEM ids that someone who wrote ``text`` may have meant, best first."""
    exact = [record.gem_id for record in RECORDS if record.gym_id == text]
    return exact or difflib.get_close_matches(text, _BY_GEM_ID, n=most)


def check_known(gem_id: str, remedy: str) -> None:
    """Refuse an id that looks like one of GEM's but is none.

    Args:
        gem_id: The id.
        remedy: How to name the module that registers an environment of the user's own.

    Raises:
        SpecError: If GEM has the category and not the id; says which ids are close.
    """
    if gem_id in _BY_GEM_ID:
        return
    category, colon, _ = gem_id.partition(":")
    meant = suggest(gem_id)
    if colon and not meant and all(category != record.category for record in RECORDS):
        return
    advice = f"did you mean {' or '.join(meant)}? " if meant else ""
    raise SpecError(f"GEM has no {gem_id!r}: {advice}{remedy}")
