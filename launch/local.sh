#!/usr/bin/env bash
# Runs one command in N processes of this machine that find each other: tries what
# a cluster will do. Ends with the exit code of the last one that failed.
#
#     JAX_NUM_CPU_DEVICES=4 launch/local.sh 2 vf-jax train --distributed \
#       --config configs/tiny.py:test --workdir RUN --config.mesh.data=0 \
#       --config.data.batch=8
set -euo pipefail
count=${1:?usage: launch/local.sh N COMMAND ...}
shift
port=$(python3 -c '
import socket
with socket.socket() as one:
  one.bind(("127.0.0.1", 0))
  print(one.getsockname()[1])')
export JAX_COORDINATOR_ADDRESS=127.0.0.1:$port JAX_NUM_PROCESSES=$count

processes=()
trap 'kill -TERM "${processes[@]}" 2>/dev/null || true' INT TERM
for ((i = 0; i < count; i++)); do
  JAX_PROCESS_ID=$i "$@" &
  processes+=($!)
done
code=0
for process in "${processes[@]}"; do
  # A signal ends `wait`, not the process, which saves first.
  while :; do
    ended=0
    wait "$process" || ended=$?
    kill -0 "$process" 2>/dev/null || break
  done
  ((ended == 0)) || code=$ended
done
exit "$code"
