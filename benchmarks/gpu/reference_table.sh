#!/usr/bin/env bash
# SmolLM2 on real data: a training step; order 1, 14 methods, 3 seeds, several runs a process, all on one GPU; within 4 minutes a call.
#
#   benchmarks/gpu/reference_table.sh            # what is done stays: called again, it goes on
#   ROWS=150 TEST=100 JOBS=12 LIMIT=230          # the defaults: those of results/reference/smollm2
#
# Records stay in .gpu/smollm2, where the next call finds them; $OUT/smollm2.tar.gz holds them, too. The table is of what is done by then.
# shellcheck source=benchmarks/gpu/measure.sh
. "$(dirname "$0")/measure.sh"
set_up
methods=seqlora,rkif,lorareplay,mtl,olora,tasl,ewc,migu,inclora,moelora,l2p,sapt,vrmcl,lfpt5
model=(--preset smollm2 --backbone ".gpu/$(cat .gpu/data/gguf.name 2>/dev/null)" --data .gpu/data)
rows="${ROWS:-150}" test="${TEST:-100}" jobs="${JOBS:-12}" limit="${LIMIT:-230}" seeds=3
if [ -n "${REDUCED:-}" ]; then
    model=(--data toy --device cpu --epochs 1) methods=seqlora,rkif rows=16 test=8 jobs=2 seeds=1
elif [ ! -e .gpu/complete ]; then
    echo "no GGUF file in .gpu: see benchmarks/gpu/README.md" >&2
    exit 2
fi
mkdir -p .gpu/smollm2
if [ -z "${REDUCED:-}" ]; then
    measure step_smollm2 70 benchmarks/training_step.py "${model[@]}" --tasks dbpedia,amazon,yahoo,agnews --rounds 1 --steps 10
fi
clbench=(-c "from clbench.cli.main import main; main()")
measure reference_table $((limit - 20 - SECONDS + began)) "${clbench[@]}" sweep make --method $methods --order 1 --seeds $seeds \
    --jobs "$jobs" --limit-train "$rows" --limit-test "$test" --threads 1 --checkpoint-every 20s --results .gpu/smollm2 "${model[@]}"
measure table 15 "${clbench[@]}" leaderboard --results .gpu/smollm2
tar -czf "$OUT/smollm2.tar.gz" --exclude '*.checkpoint' --exclude '*.bookmark' -C .gpu smollm2
finish
