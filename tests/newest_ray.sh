#!/usr/bin/env bash
# Run the tests marked newest_ray on another Ray than the pin: the version given, else the newest of the index.
#   tests/newest_ray.sh [VERSION | --if-newer]     --if-newer: run nothing if the index has none newer than the pin
# .venv-newest has this Ray, and what it needs that .venv has not; all else is that of .venv.
set -euo pipefail
cd "$(dirname "$0")/.."
pinned=.venv/bin/python
newest=.venv-newest/bin/python

pin=$($pinned -c 'from importlib.metadata import version; print(version("ray"))')
ray=${1:---newest}
if [ "$ray" != "${ray#--}" ]; then
    listed=$($pinned -m pip index versions --pre ray 2>/dev/null) || listed=
    last=$(sed -n '1s/^ray (\(.*\))$/\1/p' <<<"$listed")
    if [ -z "$last" ]; then
        echo "The package index does not name its newest Ray: no other than the pin is tested." >&2
        [ "$ray" = --if-newer ] && exit 0 || exit 1
    fi
    is_newer='import sys; from packaging.version import parse; print(parse(sys.argv[1]) > parse(sys.argv[2]))'
    if [ "$($pinned -c "$is_newer" "$last" "$pin")" = False ]; then
        echo "The index has no newer Ray than the pin, $pin."
        [ "$ray" != --if-newer ] || exit 0
        last=$pin
    fi
    ray=$last
fi
echo "The tests marked newest_ray run on Ray $ray; the pin is $pin."

$pinned -m venv --clear --without-pip .venv-newest
packages='import sysconfig; print(sysconfig.get_path("purelib"))'
echo "import site; site.addsitedir('$($pinned -c "$packages")')" >"$($newest -c "$packages")/pinned.pth"
install() { $pinned -m pip --disable-pip-version-check --python $newest install --quiet "$@"; }
# pip installs it, and reports that geopipe asks for the pin
install "ray[data,default]==$ray" 2>&1 | grep -v -e "dependency conflicts" -e "^geopipe .* requires ray" || true
[ "$($newest -c 'import ray; print(ray.__version__)')" = "$ray" ] || { echo "error: there is no Ray $ray" >&2; exit 1; }
install --no-deps --no-build-isolation --ignore-installed --editable . # for the program beside this Python
$newest -m pytest -n 3 --dist loadgroup --no-loadscope-reorder -m newest_ray
