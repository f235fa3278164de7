#!/usr/bin/env bash
# Measure what awaits a GPU, in three parts of at most 4 minutes each.
#
#   benchmarks/gpu/run_all.sh 1            # is it right: the tests, each method in bfloat16, 8 and 4 bits, graphs
#   benchmarks/gpu/run_all.sh 2            # how fast: steps, answers, methods; models of the true sizes with random weights
#   benchmarks/gpu/run_all.sh 3            # reference_table.sh: SmolLM2, order 1, 14 methods, 3 seeds
#   REDUCED=1 benchmarks/gpu/run_all.sh 1  # on a CPU, toy sizes: proves that the script works, measures nothing
#
# Each measurement has a time limit of its own, prints as it goes, and does not stop the others. JSON and logs: ${OUT:-results/benchmarks}.
# shellcheck source=benchmarks/gpu/measure.sh
. "$(dirname "$0")/measure.sh"

if [ -n "${REDUCED:-}" ]; then
    device=(--device cpu) size=(--reduced --device cpu) steps=(--rounds 1 --steps 2 --warm 1) graphs=none
    methods=(--methods seqlora,rkif --device cpu)
else
    device=() size=() steps=(--rounds 2 --steps 12 --warm 3) graphs=cudagraphs methods=()
fi
tests=(-m pytest -p no:cacheprovider -o addopts=--import-mode=importlib -q)

right() {
    measure gpu_tests 60 "${tests[@]}" tests/model/fast tests/model/test_decoder.py -k "real_graphs or on_a_gpu or cuda"
    measure each_method_decoder 60 benchmarks/gpu/each_method.py --kind llama --precision bfloat16 "${methods[@]}"
    measure each_method_t5 50 benchmarks/gpu/each_method.py --kind t5 --precision bfloat16 "${methods[@]}"
    measure each_method_graphs 30 benchmarks/gpu/each_method.py --kind t5 --compile $graphs --methods seqlora,rkif "${device[@]}"
    if [ -z "${REDUCED:-}" ]; then # bitsandbytes
        measure in_8_bits 15 benchmarks/gpu/each_method.py --kind llama --quantize 8bit --methods seqlora
        measure in_4_bits 15 benchmarks/gpu/each_method.py --kind llama --quantize 4bit --methods seqlora
    fi
}

fast() {
    local large=(--shape t5-large "${size[@]}")
    measure step_t5_large_graphs 65 benchmarks/training_step.py "${large[@]}" --repeat 4 --compile $graphs "${steps[@]}"
    measure evaluation_t5_large 35 benchmarks/evaluation.py "${large[@]}" --rounds 1 --rows 256
    measure method_cost_t5_large 45 benchmarks/method_cost.py "${large[@]}" --rounds 1 --epochs 1 --methods rkif
    measure step_t5_large 35 benchmarks/training_step.py "${large[@]}" --repeat 4 "${steps[@]}"
    if [ -e .gpu/complete ]; then
        local smollm2=(--preset smollm2 --backbone ".gpu/$(cat .gpu/data/gguf.name)" --data .gpu/data "${device[@]}")
        measure step_smollm2 40 benchmarks/training_step.py "${smollm2[@]}" --tasks dbpedia,amazon,yahoo,agnews "${steps[@]}"
    fi
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
