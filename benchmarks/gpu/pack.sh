#!/usr/bin/env bash
# Lay out in .gpu/ what a machine without network needs beside the tree, in pieces that travel one a call, and print the calls.
#
#   benchmarks/gpu/pack.sh GGUF DATA [WHEELS]    # a GGUF file, a folder in RKIF's layout, a folder of wheels (README.md)
#
# What travels in a call, tree included, is at most LIMIT MiB (64).
set -eu
cd "$(dirname "$0")/../.."
gguf="$(realpath "$1")" data="$(realpath "$2")"
rm -rf .gpu
for part in train test; do
    mkdir -p ".gpu/data/$part"
    for task in dbpedia amazon yahoo agnews; do cp "$data/$part/$task.json" ".gpu/data/$part/"; done
done
if [ -n "${3:-}" ]; then cp -r "$3" .gpu/wheels; fi
mib() { du -cm --apparent-size "$@" | tail -n 1 | cut -f 1; }
tree=$(git ls-files -z | xargs -0 ls -d 2>/dev/null | tr '\n' '\0' | du -cm --apparent-size --files0-from=- | tail -n 1 | cut -f 1)
first=$((${LIMIT:-64} - tree - $(mib .gpu) - 2)) other=$((${LIMIT:-64} - tree - 2))
if [ "$first" -lt 1 ]; then
    echo "the tree takes $tree MiB and data and wheels $(mib .gpu): nothing is left of ${LIMIT:-64}" >&2
    exit 2
fi
mkdir .gpu/rest
head -c "${first}M" "$gguf" >.gpu/gguf.000
tail -c "+$((first * 1024 * 1024 + 1))" "$gguf" | split -b "${other}M" -d -a 2 - .gpu/rest/
name="$(basename "$gguf")" pieces=(.gpu/gguf.000)
for piece in .gpu/rest/*; do
    mv "$piece" ".gpu/gguf.1$(basename "$piece")"
    pieces+=(".gpu/gguf.1$(basename "$piece")")
done
rmdir .gpu/rest
sha256sum "$gguf" | cut -d ' ' -f 1 >.gpu/data/gguf.sha256
echo "$name" >.gpu/data/gguf.name
wc -c <"$gguf" >.gpu/data/gguf.size
echo "tree $tree MiB; ${#pieces[@]} pieces of $name. The calls, the machine kept warm:"
echo "  carry ${pieces[0]} .gpu/data$([ -d .gpu/wheels ] && echo ' .gpu/wheels'): benchmarks/gpu/run_all.sh 1"
for piece in "${pieces[@]:2}"; do echo "  carry $piece: true"; done
echo "  carry ${pieces[1]:-nothing}: benchmarks/gpu/run_all.sh 3, and benchmarks/gpu/run_all.sh 2"
