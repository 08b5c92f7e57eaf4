#!/usr/bin/env bash
# Makes the weights of the package from nothing but this repository, with its
# history, and a seed: phantoms, store, training on from the weights of the eighth
# stage, the lesion decoder alone after that, export (an hour on two cores; killed
# or stopped, the same command goes on). The recipe is configs/default.py, the
# stages are in docs/training.md.
#
#     launch/default_weights.sh FOLDER
set -euo pipefail
# FOLDER must not be that of an earlier stage: its store and runs would be kept.
folder=${1:?usage: launch/default_weights.sh FOLDER}
here=$(cd "$(dirname "$0")/.." && pwd)
run() { nice -n 10 vf-jax "$@"; }

# NAME, then what `vf-jax phantom` is asked for.
phantoms() {
  local p=$folder/$1
  shift
  run phantom --out "$p" --seed 1 "$@"
  run prepare "$p/verse" "$p/ctspine1k" "$p/spineweb" "$p/cohort" \
    --out "$p/store" --spacing 2
}

NECKS=C1-T3,C1-C7,C1-T6,C2-T4,C3-T2
HIPS=L3-sacrum,L1-sacrum,T11-sacrum,T9-sacrum,T5-sacrum
COUNTS="T13=0.12,L6=0.2,absent T12=0.08"
phantoms usual --cases 144
phantoms necks --cases 48 --first 144 --spans "$NECKS"
phantoms hips --cases 32 --first 192 --spans "$HIPS" --variants "$COUNTS"
phantoms usual2 --cases 96 --first 224
phantoms necks2 --cases 48 --first 320 --spans "$NECKS"
phantoms hips2 --cases 48 --first 368 --spans "$HIPS" --variants "$COUNTS"
[ -e "$folder/store/store.json" ] ||
  run merge phantom="$folder"/{necks,hips,usual,necks2,hips2,usual2}/store \
    "$here/tests/data/store" --out "$folder/store"
# The package's weights of before: those of the eighth stage.
mkdir -p "$folder/before"
git -C "$here" archive 991bb93 vf_jax/assets/weights |
  tar -x -C "$folder/before" --strip-components=3
run train --config "$here/configs/default.py" --workdir "$folder/run" \
  --config.data.store="$folder/store" --config.train.init="$folder/before"
run train --config "$here/configs/default.py:lesion-decoder" \
  --workdir "$folder/lesions" --config.data.store="$folder/store" \
  --config.train.init="$folder/run"
run export "$folder/lesions" --out "$folder/weights"
