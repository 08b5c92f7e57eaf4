#!/usr/bin/env bash
# Trains on the GPUs of a Slurm cluster; change the numbers below to yours.
#
#     sbatch launch/slurm.sh --config configs/fast.py:B --workdir RUN \
#       --config.data.store=STORE --config.mesh.fsdp=8 --config.mesh.data=0 \
#       --config.data.batch=256
#
# The batch counts the crops of all GPUs, which must divide it.
# RUN and STORE lie where all nodes see them. Two minutes before the time is over
# all processes save and stop (exit code 130); the job is queued again and goes on.
#SBATCH --job-name=vf-jax
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
# One task a GPU, and all GPUs of a node visible to each: so JAX divides them.
set -euo pipefail
code=0
srun --kill-on-bad-exit=1 vf-jax train --distributed "$@" || code=$?
if ((code == 130)); then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
