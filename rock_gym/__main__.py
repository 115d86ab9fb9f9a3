"""``python -m rock_gym`` is ``rock-gym``."""

from rock_gym.cli import main

main(prog_name="rock-gym")
