# Sourced by run_all.sh and reference_table.sh: where things are, `measure`, and what is installed once.
set -u -o pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export OUT="${OUT:-$PWD/results/benchmarks}" HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1 CLBENCH_CACHE="${CLBENCH_CACHE:-$PWD/.gpu/cache}"
python="${PYTHON:-python3}"
began=$SECONDS
rm -rf "$OUT/logs"
mkdir -p "$OUT/logs"

# measure NAME SECONDS WORDS...: run a command within a time limit; what it prints is on the screen at once, and in a log
measure() {
    local name="$1" limit="$2" begin=$SECONDS
    shift 2
    echo "== $name (at most $limit s)"
    if timeout -k 5 "$limit" "$python" "$@" 2>"$OUT/logs/$name.err" | tee "$OUT/logs/$name.log"; then
        echo "== $name: done in $((SECONDS - begin)) s"
    else
        echo "== $name: FAILED after $((SECONDS - begin)) s; its last lines:"
        tail -n 3 "$OUT/logs/$name.err"
        echo "$name" >>"$OUT/logs/failed"
    fi
}

# beside NAME SECONDS WORDS...: as `measure`, while the others go on, each line with the name before it; `wait` for them all
beside() {
    measure "$@" 2>&1 | sed -u "s/^/$1: /" &
}

# set_up: once a machine, install clbench with the wheels that travelled, and put the GGUF file together
set_up() {
    if [ ! -e .gpu/complete ] && [ "$(cat .gpu/gguf.* 2>/dev/null | wc -c)" = "$(cat .gpu/data/gguf.size 2>/dev/null)" ]; then
        cat .gpu/gguf.* >".gpu/$(cat .gpu/data/gguf.name)"
        echo "$(cat .gpu/data/gguf.sha256)  .gpu/$(cat .gpu/data/gguf.name)" | sha256sum -c - && touch .gpu/complete
    fi
    if ! "$python" -c "import clbench.plugins, clbench.tasks" 2>/dev/null; then
        [ ! -d .gpu/wheels ] || "$python" -m pip install -q --no-index --no-deps .gpu/wheels/*.whl
        "$python" -m pip install -q --no-deps --no-index --no-build-isolation -e .
    fi
    echo "== set up after $((SECONDS - began)) s"
}

# finish: say what failed; the logs become one file, since only a few come back from a lent machine
finish() {
    local failed=none
    [ ! -e "$OUT/logs/failed" ] || failed=$(paste -sd ' ' "$OUT/logs/failed")
    tar -czf "$OUT/logs.tar.gz" -C "$OUT" logs && rm -r "$OUT/logs"
    echo "== all in $((SECONDS - began)) s; failed: $failed"
    [ "$failed" = none ]
}
