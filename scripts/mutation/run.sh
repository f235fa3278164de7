#!/usr/bin/env bash
# Mutate one module, run its tests against each mutant, say what survived. By hand, not in CI: minutes to an hour a module.
#
#   scripts/mutation/run.sh MODULE.py FOLDER TEST ...     from the root of the repository; clbench and cosmic-ray installed
#   MUTANTS=80 ROWS=45-99,280-291 scripts/mutation/run.sh ...            80 of them, drawn among those of these lines
#
#   scripts/mutation/run.sh clbench/records/metrics.py /tmp/m --noconftest tests/records/test_m*.py
#   scripts/mutation/run.sh clbench/data/answer_scores.py /tmp/a --noconftest tests/data/test_answer_scores.py
#   scripts/mutation/run.sh clbench/records/bootstrap.py /tmp/b --noconftest tests/records/test_bootstrap_numbers.py
#   scripts/mutation/run.sh clbench/running/dry_run.py /tmp/d tests/running/test_dry_run.py
#   scripts/mutation/run.sh clbench/learning/training.py /tmp/t tests/learning/test_learner.py
#
# It works on a copy of the tree in FOLDER, an absolute path; called again with the same FOLDER it goes on where it was stopped,
# with the tests of then. --noconftest saves a second a mutant where the tests need no fixture of ours. The survivors are shown
# last, with the score. Left out: `|` (annotations, which nobody evaluates), bits for numbers (any test notices), and lines
# with `# pragma: no mutate`.
set -euo pipefail
module=$1 folder=$2
shift 2
here=$PWD
if [ ! -e "$folder/session.sqlite" ]; then
    mkdir -p "$folder/tree"
    git ls-files --cached --others --exclude-standard -z | xargs -0 cp --parents -t "$folder/tree"
fi
cp "$module" "$folder/tree/$module" # a stopped run may have left a mutant there
cd "$folder/tree"
rm -f ../socket
python "$here/scripts/mutation/warm_pytest.py" serve "$folder/socket" &
trap "kill $!" EXIT
until [ -S ../socket ]; do sleep 0.2; done
ask="python -S $here/scripts/mutation/warm_pytest.py $folder/socket $*"
cat >../session.toml <<TOML
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
$ask || { echo "the tests fail without a mutation"; exit 1; }
if [ ! -e ../session.sqlite ]; then
    cosmic-ray init ../session.toml ../session.sqlite
    cr-filter-operators ../session.sqlite ../session.toml
    cr-filter-pragma ../session.sqlite
    if [ -n "${MUTANTS:-}" ]; then
        python "$here/scripts/mutation/sample.py" ../session.sqlite "$MUTANTS" "${ROWS:-}"
    fi
fi
cosmic-ray exec ../session.toml ../session.sqlite
cr-report ../session.sqlite --surviving-only --show-diff
python - ../session.sqlite <<'PY'
import sqlite3, sys

counts = dict(
    sqlite3.connect(sys.argv[1]).execute(
        "select test_outcome, count(*) from work_results where worker_outcome != 'SKIPPED' group by 1"
    )
)
print(f"killed: {sum(counts.values()) - counts.get('SURVIVED', 0)} of {sum(counts.values())}")
PY
