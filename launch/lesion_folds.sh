#!/usr/bin/env bash
# How well are real lesions found in patches that were not trained on? Trains the
# default recipe from nothing without the real patches, its lesion decoder after
# that, and this three times a little on with four of the six patches; judges each by
# the other two (two hours on two cores; killed or stopped, the same command goes
# on). Two patches show vertebrae; the boxes of the others lie in other bones.
#
#     launch/lesion_folds.sh STORE FOLDER   # STORE of launch/default_weights.sh
set -euo pipefail
store=${1:?usage: launch/lesion_folds.sh STORE FOLDER}
folder=${2:?usage: launch/lesion_folds.sh STORE FOLDER}
here=$(cd "$(dirname "$0")/.." && pwd)

train() { # CONFIG FOLDER SETTING ...
  local config=$1 workdir=$2
  shift 2
  nice -n 10 vf-jax train --config "$here/configs/$config" --workdir "$workdir" \
    --config.data.store="$store" "$@"
}

train default.py:-lesions "$folder/trunk" --config.train.init= \
  --config.optim.learning_rate=1e-3 --config.train.steps=1500 \
  --config.data.augment.lesion=0.6 --config.loss.lesion=0.5 \
  --config.loss.lesion_size=0.05
train default.py:-lesions,lesion-decoder "$folder/without" \
  --config.train.init="$folder/trunk" \
  --config.optim.learning_rate=2e-3 --config.train.steps=1600

patches=$here/tests/data/store
judged=(
  --store "no real patch trained on=$patches@$folder/without"
  --store "the same, vertebrae=$patches@$folder/without:blds-1,blds-7"
)
for fold in 1 2 3; do
  split=$folder/fold-$fold.json
  vf-jax split "$store" --fold $fold/3 --out "$split"
  train default.py:lesion-decoder "$folder/fold-$fold" \
    --config.data.split="$split" --config.train.init="$folder/without" \
    --config.optim.learning_rate=2e-3 --config.train.steps=150
  held=$(python -c 'import json, sys
test = json.load(open(sys.argv[1]))["parts"]["test"]
print(",".join(case for case in test if case.startswith("blds-")))' "$split")
  judged+=(--store "each by the others=$patches@$folder/fold-$fold:$held")
done
python "$here/benchmarks/lesions.py" "${judged[@]}" --out "$folder"
