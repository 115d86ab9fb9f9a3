"""A coding agent's loop over a pool: write code, run its tests, repair it, throw the box away."""

from rock_gym import CommandTimeout, SandboxPool

TEST = """
from solution import fib
assert [fib(n) for n in range(8)] == [0, 1, 1, 2, 3, 5, 8, 13]
print("all tests passed")
"""

# What a model would propose, turn by turn.
PROPOSALS = (
    "def fib(n):\n    return n if n < 2 else fib(n - 1) + fib(n)\n",
    "def fib(n):\n    while True: pass\n",
    "def fib(n):\n    return n if n < 2 else fib(n - 1) + fib(n - 2)\n",
)

with SandboxPool(min_idle=1, max_size=4, disk="64m", pids=64) as pool, pool.acquire() as sandbox:
    bash = sandbox.create_session("main")
    bash.run("mkdir project && cd project", check=True)
    sandbox.write_file("project/test_solution.py", TEST)
    for turn, code in enumerate(PROPOSALS, start=1):
        sandbox.write_file("project/solution.py", code)
        try:
            result = bash.run("python3 test_solution.py", timeout=2)
        except CommandTimeout:
            print(f"turn {turn}: killed after 2 s; the session goes on")
            continue
        last_line = result.output.strip().splitlines()[-1]
        print(f"turn {turn}: exit code {result.exit_code}, {last_line}")
        if result.exit_code == 0:
            break
    print(sandbox.read_file("project/solution.py"))
