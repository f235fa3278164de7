#!/usr/bin/env bash
# Mutate one module, run its tests against each mutant, say what survived. By hand, not in CI: minutes to an hour a module.
#
#   scripts/mutation/run.sh MODULE.py FOLDER TEST ...          from the root of the repository, clbench installed
#
# for example
#   scripts/mutation/run.sh clbench/records/metrics.py /tmp/mutants tests/records/test_measures.py
#
# Needs `pip install cosmic-ray`. It works on a copy of the tree in FOLDER; a second call with the same FOLDER goes on where
# the first one was stopped. The score is printed last: mutants killed, and all. `cosmic-ray dump FOLDER/session.sqlite`
# has every mutant as JSON. To run only survivors again after new tests, call it with a new FOLDER.
#
# Left out: `|` (in annotations, which nobody evaluates), bits for numbers (any test notices a TypeError), and lines with
# `# pragma: no mutate`.
set -euo pipefail
module=$1 folder=$2
shift 2
here=$PWD
if [ ! -e "$folder/session.sqlite" ]; then
    mkdir -p "$folder/tree"
    git ls-files --cached --others --exclude-standard -z | xargs -0 cp --parents -t "$folder/tree"
fi
cd "$folder"
socket=$folder/socket
rm -f "$socket"
(cd tree && exec python "$here/scripts/mutation/warm_pytest.py" serve "$socket") &
server=$!
trap 'kill $server' EXIT
until [ -S "$socket" ]; do sleep 0.2; done
ask="python -S $here/scripts/mutation/warm_pytest.py $socket $*"
cat >session.toml <<TOML
[cosmic-ray]
module-path = "$module"
timeout = 130.0
excluded-modules = []
test-command = "$ask"
[cosmic-ray.distributor]
name = "local"
[cosmic-ray.filters.operators-filter]
exclude-operators = [
    "core/ReplaceBinaryOperator_BitOr_.*",
    "core/ReplaceBinaryOperator_.*_(BitAnd|BitOr|BitXor|LShift|RShift|Pow|Mod)",
    "core/ReplaceUnaryOperator_USub_(Invert|Not)",
]
TOML
cd tree
$ask || { echo "the tests fail without a mutation"; exit 1; }
if [ ! -e ../session.sqlite ]; then
    cosmic-ray init ../session.toml ../session.sqlite
    cr-filter-operators ../session.sqlite ../session.toml
    cr-filter-pragma ../session.sqlite
fi
cosmic-ray exec ../session.toml ../session.sqlite
cr-report ../session.sqlite --surviving-only --show-diff
