#!/usr/bin/env bash
# Trains on all hosts of a Cloud TPU slice; vf_jax is installed on each (`pip install
# vf_jax jax[tpu]`), RUN and STORE lie on a file system that all of them mount.
#
#     launch/tpu_vm.sh SLICE ZONE --config configs/fast.py:B --workdir RUN \
#       --config.data.store=STORE --config.mesh.data=0 --config.data.batch=128
#
# The batch counts the crops of all chips, which must divide it.
set -euo pipefail
slice=${1:?usage: launch/tpu_vm.sh SLICE ZONE OPTION ...}
zone=${2:?usage: launch/tpu_vm.sh SLICE ZONE OPTION ...}
shift 2
gcloud compute tpus tpu-vm ssh "$slice" --zone="$zone" --worker=all \
  --command="vf-jax train --distributed $(printf '%q ' "$@")"
