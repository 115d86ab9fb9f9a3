"""Draws ``docs/pictures/learning.png``: how ``examples/policy_gradient.py`` learns, by seeds.

``python -m scripts.learning_picture`` needs matplotlib, which GEM brings along.
"""

import sys
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "examples"))

from policy_gradient import NUM_ENVS, train  # noqa: E402

SEEDS, ROUNDS, WINDOW = 5, 160, 10


def main() -> None:
    """Train, and draw."""
    curves = np.array([train(seed, ROUNDS) for seed in range(SEEDS)])
    kernel = np.ones(WINDOW) / WINDOW
    smooth = np.array([np.convolve(curve, kernel, mode="valid") for curve in curves])
    games = (np.arange(smooth.shape[1]) + WINDOW) * NUM_ENVS
    figure, axes = plt.subplots(figsize=(6.4, 3.2), dpi=110)
    for curve in smooth:
        axes.plot(games, 100 * curve, color="#4c72b0", alpha=0.35, linewidth=1)
    axes.plot(games, 100 * smooth.mean(axis=0), color="#1b3a6b", linewidth=2, label="policy")
    random = 100 * curves[:, 0].mean()
    axes.axhline(random, color="#999999", linestyle="--", linewidth=1, label="at random")
    axes.set(xlabel="games played", ylabel="games won, %", ylim=(0, 100), xlim=(0, games[-1]))
    axes.set_title(f"GuessTheNumber-easy, 64 sandboxed games at once, {SEEDS} seeds", fontsize=10)
    axes.legend(loc="lower right", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(ROOT / "docs" / "pictures" / "learning.png", metadata={"Software": None})
    print(f"{random:.0f} % at random, {100 * smooth[:, -1].mean():.0f} % at last")


if __name__ == "__main__":
    main()
