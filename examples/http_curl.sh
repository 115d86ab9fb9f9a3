#!/bin/sh
# A sandbox and a game over HTTP, by curl. Before it, in another terminal:
#
#     rock-gym serve --image-alias python:3.11=host
set -eu
url=${1:-http://localhost:8080}

# The answer to a JSON body, in one line.
post() {
    curl -sS -X POST "$url/apis/$1" -H 'Content-Type: application/json' -d "$2"
    echo
}

# The value of "sandbox_id" in an answer.
id_of() {
    sed -n 's/.*"sandbox_id": *"\([^"]*\)".*/\1/p'
}

echo "--- a sandbox"
sandbox=$(post envs/sandbox/v1/start '{"image": "python:3.11", "resources": {"memory": "1g"}}' | id_of)
post envs/sandbox/v1/execute "{\"sandbox_id\": \"$sandbox\", \"command\": \"echo hello from \$HOSTNAME\"}"
post envs/sandbox/v1/create_session "{\"sandbox_id\": \"$sandbox\", \"session\": \"main\"}"
post envs/sandbox/v1/run_in_session \
    "{\"sandbox_id\": \"$sandbox\", \"session\": \"main\", \"command\": \"cd /tmp && x=1\"}"
post envs/sandbox/v1/run_in_session \
    "{\"sandbox_id\": \"$sandbox\", \"session\": \"main\", \"command\": \"echo \$x in \$PWD\"}"
post envs/sandbox/v1/stop "{\"sandbox_id\": \"$sandbox\"}"

echo "--- a game"
game=$(post v1/envs/gem/make '{"env_id": "game:GuessTheNumber-v0-easy"}' | id_of)
post v1/envs/gem/reset "{\"sandbox_id\": \"$game\", \"seed\": 42}"
for guess in 5 8 2; do
    post v1/envs/gem/step "{\"sandbox_id\": \"$game\", \"action\": \"\\\\boxed{$guess}\"}"
done
post v1/envs/gem/close "{\"sandbox_id\": \"$game\"}"
