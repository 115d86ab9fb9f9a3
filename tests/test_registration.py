"""Ids, and what importing the library costs."""

from __future__ import annotations

import importlib
import json
import statistics
import subprocess
import sys
import warnings

import gymnasium as gym
import pytest
from gymnasium.envs.registration import EnvSpec, parse_env_id

import rock_gym
from rock_gym import errors, registration
from rock_gym.envs import GemEnv
from rock_gym.errors import SpecError
from rock_gym.gem import catalog

ALL = list(catalog.RECORDS)
GEM_ID, GYM_ID = "game:Sokoban-v0-easy", "gem-game/Sokoban-easy-v0"


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


class TestIds:
    def test_there_are_as_many_as_gem_ships(self) -> None:
        assert len(ALL) == len({record.gym_id for record in ALL}) == 172

    @pytest.mark.parametrize("record", ALL, ids=lambda record: record.gem_id)
    def test_every_one_is_registered_as_plain_data(self, record: catalog.Record) -> None:
        spec = gym.spec(record.gym_id)
        assert spec.kwargs == {"gem_id": record.gem_id}
        assert EnvSpec.from_json(spec.to_json()) == spec
        namespace, name, version = parse_env_id(record.gym_id)
        assert namespace == f"gem-{record.gem_id.partition(':')[0]}"
        assert name
        assert version == 0

    @pytest.mark.parametrize("record", ALL, ids=lambda record: record.gem_id)
    def test_every_one_can_be_made_and_knows_its_moves(self, record: catalog.Record) -> None:
        with gym.make(record.gym_id) as env:
            assert isinstance(env.unwrapped, GemEnv)
            assert env.unwrapped.gem_id == record.gem_id
            assert env.action_space.sample() in env.action_space

    def test_the_generic_one_takes_any_gem_id(self) -> None:
        with gym.make("rock/Gem-v0", gem_id="my:Env", imports=["my_pkg.envs"]) as env:
            assert env.unwrapped.gem_id == "my:Env"  # type: ignore[attr-defined]

    def test_ids_work_with_the_module_in_front(self) -> None:
        code = f"import gymnasium; gymnasium.make('rock_gym:{GYM_ID}').close()"
        run(code)


class TestMake:
    def test_it_makes_what_gymnasium_makes(self) -> None:
        with rock_gym.make(GEM_ID, max_turns=4) as ours, gym.make(GYM_ID, max_turns=4) as theirs:
            assert ours.spec == theirs.spec
            assert type(ours) is type(theirs)

    @pytest.mark.parametrize("kwargs", [{}, {"imports": ["my_pkg"]}])
    def test_an_id_of_a_category_of_its_own_goes_through(self, kwargs: dict[str, object]) -> None:
        with rock_gym.make("mine:Env-v0", **kwargs) as env:
            assert env.spec is not None
            assert env.spec.id == "rock/Gem-v0"

    def test_so_does_any_id_that_comes_with_imports(self) -> None:
        with rock_gym.make("game:Mine-v0", imports=["my_pkg"]) as env:
            assert env.unwrapped.gem_id == "game:Mine-v0"  # type: ignore[attr-defined]

    @pytest.mark.parametrize(
        ("gem_id", "advice"),
        [
            ("game:Sokobann-v0-easy", "did you mean game:Sokoban-v0-easy"),
            ("gane:Sokoban-v0-easy", "did you mean game:Sokoban-v0-easy"),
            ("game:GuessTheNumber-v0", "game:GuessTheNumber-v0-easy"),
            (GYM_ID, f"did you mean {GEM_ID}"),
            ("rg:no_such_thing", "imports="),
            ("Sokoban", "imports="),
            ("", "imports="),
            (None, "must be a string"),
        ],
    )
    def test_a_wrong_id_gets_advice(self, gem_id: str, advice: str) -> None:
        with pytest.raises(SpecError, match=advice):
            rock_gym.make(gem_id)


class TestPackage:
    def test_all_is_sorted_and_complete(self) -> None:
        assert rock_gym.__all__ == sorted(rock_gym.__all__)
        assert set(errors.__all__) <= set(rock_gym.__all__) <= set(dir(rock_gym))
        for name in rock_gym.__all__:
            assert getattr(rock_gym, name) is not None

    def test_names_are_the_ones_below(self) -> None:
        assert rock_gym.SpecError is SpecError
        assert rock_gym.GemEnv is GemEnv
        assert rock_gym.make is registration.make

    def test_an_unknown_name_is_an_attribute_error(self) -> None:
        for module in (rock_gym, rock_gym.envs):
            with pytest.raises(AttributeError, match="nothing"):
                module.nothing  # noqa: B018

    def test_the_names_of_envs_too(self) -> None:
        assert rock_gym.envs.__all__ == sorted(rock_gym.envs.__all__)
        assert all(getattr(rock_gym.envs, name) for name in rock_gym.envs.__all__)
        assert set(rock_gym.envs.__all__) <= set(dir(rock_gym.envs))

    def test_a_reload_is_silent(self) -> None:
        before = dict(gym.registry)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            importlib.reload(rock_gym)
        assert gym.registry == before

    def test_an_id_that_is_taken_stays_as_it_is(self) -> None:
        run(
            "import gymnasium\n"
            f"gymnasium.register('{GYM_ID}', 'mine:Env')\n"
            "import rock_gym\n"
            f"assert gymnasium.spec('{GYM_ID}').entry_point == 'mine:Env'"
        )

    def test_importing_and_listing_import_no_machinery(self) -> None:
        told = run(
            "import json, sys, gymnasium\n"
            "before = set(sys.modules)\n"
            "import rock_gym\n"
            f"gymnasium.spec('{GYM_ID}')\n"
            "print(json.dumps(sorted(set(sys.modules) - before)))"
        )
        ours = {name for name in json.loads(told) if name.startswith("rock_gym")}
        assert ours == {
            "rock_gym",
            "rock_gym._version",
            "rock_gym.errors",
            "rock_gym.gem",
            "rock_gym.gem.catalog",
            "rock_gym.registration",
        }

    def test_importing_is_quick(self) -> None:
        """In a process where gymnasium is, so that nothing else is measured."""
        code = (
            "import time, gymnasium\n"
            "start = time.perf_counter()\n"
            "import rock_gym\n"
            "print(time.perf_counter() - start)"
        )
        run(code)  # compiles
        assert statistics.median(float(run(code)) for _ in range(5)) < 0.05
