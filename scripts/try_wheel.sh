#!/usr/bin/env bash
# Build sdist and wheel, check them, and try the wheel in an environment of its own: the quick start, and a plugin that is a package.
#
#   bash scripts/try_wheel.sh PYTHON DIST
#
# PYTHON has clbench's dependencies, `build` and `twine`. The new environment sees its packages, by a .pth file, in place of
# installing torch once more; clbench itself comes from the wheel. What is built goes to the new folder DIST.
set -euo pipefail
python=$(realpath -s "$(command -v "$1")")
mkdir -p "$2"
dist=$(realpath "$2")
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

git ls-files clbench plugins tasks results/published >"$work/files.txt"
git ls-files -z | xargs -0 cp --parents -t "$(mkdir "$work/source" && echo "$work/source")"
"$python" -m build --outdir "$dist" "$work/source" >"$work/build.txt" 2>&1 || { cat "$work/build.txt" >&2; exit 1; }
"$python" -m twine check --strict "$dist"/*

# Every file of the packages is in the wheel, data too.
"$python" - "$dist"/*.whl "$work/files.txt" <<'PYTHON'
import re, sys, zipfile
places = {"plugins/": "clbench/plugins/", "tasks/": "clbench/tasks/", "results/published/": "clbench/published/"}
names = [re.sub("^(plugins/|tasks/|results/published/)", lambda found: places[found[0]], line.strip()) for line in open(sys.argv[2])]
missing = sorted(set(names) - set(zipfile.ZipFile(sys.argv[1]).namelist()))
print(f"{len(names)} files, {len(missing)} missing in the wheel", *missing)
sys.exit(bool(missing))
PYTHON

python3 -m venv "$work/bare"
mkdir -p "$work/plugin"
printf '%s\n' '[project]' 'name = "clbench-tried"' 'version = "1"' '[project.entry-points.clbench]' 'tried = "clbench_tried"' \
    >"$work/plugin/pyproject.toml"
printf '%s\n' 'from clbench import hookimpl' 'from clbench.plugins.seqlora import SeqLoRA' '@hookimpl' 'def methods():' \
    '    return {"tried": SeqLoRA}' >"$work/plugin/clbench_tried.py"
"$work/bare/bin/pip" install --quiet --no-deps "$dist"/*.whl "$work/plugin"
"$python" -c 'import sys; print(*[place for place in sys.path if place.endswith("site-packages")], sep="\n")' \
    >"$("$work/bare/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/shared.pth"
cd "$work"
"$work/bare/bin/python" -c 'import clbench, sys; assert clbench.__file__.startswith(sys.prefix), clbench.__file__'
"$work/bare/bin/clbench" methods tried | head -n 3
"$work/bare/bin/clbench" run --method seqlora --stream dbpedia,amazon --limit-train 32 --limit-test 8 --epochs 1 --threads 1 -q
