"""What holds on this machine, what only in part, and the command that mends it, item by item.

Nothing is concluded from versions where it can be tried: sandboxes are started, and what is to
hold in them is looked at from inside.
"""

from __future__ import annotations

from rock_gym.doctor.checks import Check, Report
from rock_gym.doctor.report import examine

__all__ = ["Check", "Report", "examine"]
