#!/usr/bin/env bash
# Measure what awaits a GPU, in three parts of at most 4 minutes each.
#
#   benchmarks/gpu/run_all.sh 1            # is it right: the tests, each method in bfloat16, 8 and 4 bits, graphs
#   benchmarks/gpu/run_all.sh 2            # how fast: steps, answers, methods; models of the true sizes with random weights
#   benchmarks/gpu/run_all.sh 3            # reference_table.sh: SmolLM2: a step; order 1, 14 methods, 3 seeds
#   REDUCED=1 benchmarks/gpu/run_all.sh 1  # on a CPU, toy sizes: proves that the script works, measures nothing
#
# Each measurement has a time limit of its own, prints as it goes, and does not stop the others. JSON and logs: ${OUT:-results/benchmarks}.
# shellcheck source=benchmarks/gpu/measure.sh
. "$(dirname "$0")/measure.sh"

if [ -n "${REDUCED:-}" ]; then
    device=(--device cpu) size=(--reduced --device cpu) steps=(--rounds 1 --steps 2) warm=1 graphs=none
    methods=(--methods seqlora,rkif) data=toy
else
    device=() size=() steps=(--rounds 1 --steps 10) warm=40 graphs=cudagraphs
    methods=() data=.gpu/data
fi
tests=(-m pytest -p no:cacheprovider -o addopts=--import-mode=importlib -q)

# all beside one another: whether it is right does not depend on time
right() {
    local each=benchmarks/gpu/each_method.py kind part
    beside gpu_tests 100 "${tests[@]}" tests/model/fast tests/model/test_decoder.py -k "real_graphs or on_a_gpu or cuda"
    for kind in llama t5; do
        for part in 1 2; do
            beside "${kind}_$part" 120 $each --kind $kind --precision bfloat16 --part $part/2 "${device[@]}" "${methods[@]}"
            beside "${kind}_graphs_$part" 120 $each --kind $kind --compile $graphs --part $part/2 "${device[@]}" "${methods[@]}"
        done
    done
    if [ -z "${REDUCED:-}" ]; then # bitsandbytes
        beside in_8_bits 60 $each --kind llama --quantize 8bit --methods seqlora,rkif,olora
        beside in_4_bits 60 $each --kind llama --quantize 4bit --methods seqlora,rkif,olora
    fi
    wait
}

fast() {
    local large=(--shape t5-large "${size[@]}")
    measure step_t5_large_graphs 110 benchmarks/training_step.py "${large[@]}" --repeat 2 --compile $graphs --warm $warm "${steps[@]}"
    measure evaluation_t5_large 60 benchmarks/evaluation.py "${large[@]}" --data $data --stream amazon,dbpedia,yahoo --rounds 1 \
        --rows 256 --against "unsorted 128, merged"
    measure method_cost_t5_large 70 benchmarks/method_cost.py "${large[@]}" --rounds 1 --epochs 1 --rows 128 --methods rkif
}

set_up
case "${1:-}" in
1) right ;;
2) fast ;;
3) exec "$(dirname "$0")/reference_table.sh" ;;
*)
    echo "usage: benchmarks/gpu/run_all.sh 1|2|3" >&2
    exit 2
    ;;
esac
finish
