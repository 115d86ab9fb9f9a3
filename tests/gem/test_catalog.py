"""The table of ids, against GEM itself."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from rock_gym.gem import catalog

# Grades answers that say, in each way a grader may read them, to call a function of ours.
FIND_EXECUTED = r"""
import builtins, json, random, sys
import gem, sympy
seen = []
builtins.tell_tale = lambda *args: seen.append(1)
# sympy's parser makes symbols of plain names, but evaluates what is reached by attributes.
by_attributes = "Integer.__new__.__globals__['__builtins__']['tell_tale']()"
found = []
for gem_id in json.loads(sys.argv[1]):
    env = gem.make(gem_id, size=5)
    for seed in range(3):
        env.reset(seed=seed)
        for text in ("tell_tale()", "[tell_tale()]", "[[tell_tale()]]", by_attributes):
            seen.clear()
            try:
                env.step("\\boxed{%s}" % text)
            except Exception:
                pass  # whatever GEM makes of it: what counts is whether it was run
            if seen and gem_id not in found:
                found.append(gem_id)
sys.stdout.write("\n" + json.dumps(found))
"""


def in_gem(code: str, *args: str) -> object:
    """Run code in a process that imports GEM, which this one must not, and return what it says."""
    done = subprocess.run(
        [sys.executable, "-c", code, *args], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def test_the_ids_are_gems_own() -> None:
    """All of them, none else, and in GEM's order."""
    code = "import gem, json; print(json.dumps(list(gem.envs.registration.ENV_REGISTRY)))"
    assert [record.gem_id for record in catalog.RECORDS] == in_gem(code)


@pytest.mark.parametrize(
    ("gem_id", "gym_id"),
    [
        ("game:Sokoban-v0-easy", "gem-game/Sokoban-easy-v0"),
        ("game:Game2048-v0-extreme-hard", "gem-game/Game2048-extreme-hard-v0"),
        ("rg:gcd", "gem-rg/gcd-v0"),
        ("math:Math8K-3to5", "gem-math/Math8K-3to5-v0"),
        ("logic:RuleTaker-d5", "gem-logic/RuleTaker-d5-v0"),
        ("eval:2Wiki", "gem-eval/2Wiki-v0"),
        ("my:Game-v12-big", "gem-my/Game-big-v12"),
        ("my:Game-v3", "gem-my/Game-v3"),
    ],
)
def test_how_ids_are_mapped(gem_id: str, gym_id: str) -> None:
    assert catalog.gym_id(gem_id) == gym_id


def test_what_is_no_gem_id() -> None:
    with pytest.raises(ValueError, match="category:name"):
        catalog.gym_id("Sokoban")


def test_no_two_share_a_gymnasium_id() -> None:
    assert len({record.gym_id for record in catalog.RECORDS}) == len(catalog.RECORDS) == 172


def test_how_many_work_as_they_are() -> None:
    """What is left needs pandas, a dictionary, a data set, or another release of GEM."""
    needs = [record.needs for record in catalog.RECORDS]
    assert {need: needs.count(need) for need in set(needs)} == {
        None: 134,
        "data set": 31,
        "broken": 3,
        "pandas": 2,
        "words": 2,
    }


def test_finding() -> None:
    record = catalog.find("rg:n_queens")
    assert record is not None
    assert (record.category, record.family, record.envs_per_sandbox) == ("rg", "n_queens", 1)
    assert catalog.find("rg:N_queens") is None


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("game:Sokobann-v0-easy", "game:Sokoban-v0-easy"),
        ("gem-game/Sokoban-easy-v0", "game:Sokoban-v0-easy"),
        ("game:GuessTheNumber-v0", "game:GuessTheNumber-v0-easy"),
    ],
)
def test_suggestions(text: str, first: str) -> None:
    assert first in catalog.suggest(text)


def test_families() -> None:
    families = {record.gem_id: record.family for record in catalog.RECORDS}
    assert families["game:Game2048-v0-extreme-hard"] == "Game2048"
    assert families["eval:MATH500"] == "math"
    assert families["eval:CodeContest"] == "code"
    assert families["eval:HotpotQA"] == families["qa:HotpotQA"] == "qa"


def test_what_executes_actions_is_marked_so() -> None:
    """Graders that evaluate the answer are found by answers that would be noticed."""
    asked = [
        record.gem_id
        for record in catalog.RECORDS
        if record.category == "rg" and record.needs is None
    ]
    marked = [
        record.gem_id
        for record in catalog.RECORDS
        if record.category == "rg" and record.executes_actions
    ]
    assert set(in_gem(FIND_EXECUTED, json.dumps(asked))) == set(marked)  # type: ignore[call-overload]


def test_what_executes_actions_has_a_sandbox_to_itself() -> None:
    for record in catalog.RECORDS:
        assert record.envs_per_sandbox == (1 if record.executes_actions else 64)
        if record.family in ("math", "code"):
            assert record.executes_actions
