#!/usr/bin/env bash
# Measure everything that awaits a GPU, in one go, in less than 9 minutes.
#
#   benchmarks/gpu/run_all.sh              # on a GPU, models of the true sizes with random weights
#   REDUCED=1 benchmarks/gpu/run_all.sh    # on a CPU, toy sizes: proves that the script works, measures nothing
#
# Each measurement has a time limit of its own; one that fails does not stop the others. JSON and logs: ${OUT:-results/benchmarks}.
set -u -o pipefail
cd "$(dirname "$0")/../.."
export OUT="${OUT:-$PWD/results/benchmarks}" HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1
export PYTHONPATH="$PWD/benchmarks${PYTHONPATH:+:$PYTHONPATH}"
python="${PYTHON:-python3}"
mkdir -p "$OUT/logs"

if [ -n "${REDUCED:-}" ]; then
    large=(--shape t5-large --reduced --device cpu)
    big=(--shape flan-t5-xl --reduced --device cpu)
    llama=(--shape llama2-7b --reduced --device cpu)
    mini=(--device cpu)
    steps=(--rounds 1 --steps 3 --warm 1)
    graphs=none
    patience=4 # a busy machine
else
    large=(--shape t5-large)
    big=(--shape flan-t5-xl)
    llama=(--shape llama2-7b)
    mini=()
    steps=(--rounds 3 --steps 30)
    graphs=cudagraphs
    patience=1
fi
failed=()

# measure NAME SECONDS WORDS...: run a command within a time limit, its output on the screen and in a log
measure() {
    local name="$1" limit=$(($2 * patience)) begin=$SECONDS
    shift 2
    echo "== $name"
    if timeout "$limit" "$python" "$@" 2>"$OUT/logs/$name.err" | tee "$OUT/logs/$name.log"; then
        echo "== $name: done in $((SECONDS - begin)) s"
    else
        echo "== $name: FAILED after $((SECONDS - begin)) s; its last lines:"
        tail -n 3 "$OUT/logs/$name.err" "$OUT/logs/$name.log"
        failed+=("$name")
    fi
}

measure training_step_t5_large_graphs 100 benchmarks/training_step.py "${large[@]}" --repeat 4 --compile $graphs "${steps[@]}"
measure training_step_t5_large 55 benchmarks/training_step.py "${large[@]}" --repeat 4 "${steps[@]}"
measure training_step_flan_t5_xl 55 benchmarks/training_step.py "${big[@]}" --repeat 4 "${steps[@]}"
measure training_step_llama2_7b 65 benchmarks/training_step.py "${llama[@]}" --repeat 4 "${steps[@]}"
measure evaluation_t5_large 70 benchmarks/evaluation.py "${large[@]}"
measure method_cost_t5_large 80 benchmarks/method_cost.py "${large[@]}" --rounds 1 --epochs 1 --methods rkif,ewc
measure start_up 50 benchmarks/start_up.py "${mini[@]}" --stream agnews,yahoo --rounds 1
measure same_numbers 40 -m pytest -o addopts=--import-mode=importlib -q tests/model/fast -k "real_graphs or on_a_gpu"

echo "== all in $SECONDS s; failed: ${failed[*]:-none}"
[ ${#failed[@]} -eq 0 ]
