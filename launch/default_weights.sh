#!/usr/bin/env bash
# Makes the weights of the package from nothing but this repository, with its
# history, and a seed: phantoms, store, training on from the first weights (an hour
# and a half on two cores; killed or stopped, the same command goes on), export. The
# recipe is configs/default.py.
#
#     launch/default_weights.sh FOLDER
set -euo pipefail
folder=${1:?usage: launch/default_weights.sh FOLDER}
here=$(cd "$(dirname "$0")/.." && pwd)
run() { nice -n 10 vf-jax "$@"; }

run phantom --out "$folder/phantoms" --cases 144 --seed 1
p=$folder/phantoms
run prepare "$p/verse" "$p/ctspine1k" "$p/spineweb" "$p/cohort" \
  --out "$folder/prepared" --spacing 2
[ -e "$folder/store/store.json" ] ||
  run merge "phantom=$folder/prepared" "$here/tests/data/store" \
    --out "$folder/store"
# configs/tiny.py, 2,400 steps: what the package held before (docs/training.md).
mkdir -p "$folder/first"
git -C "$here" archive fcfc3bf vf_jax/assets/weights |
  tar -x -C "$folder/first" --strip-components=3
run train --config "$here/configs/default.py" --workdir "$folder/run" \
  --config.data.store="$folder/store" --config.train.init="$folder/first"
run export "$folder/run" --out "$folder/weights"
