#!/bin/sh
# Build the image geopipe:VERSION, and run the demo in it: cluster/image/build.sh [OPTION of the builder ...]
# ENGINE names the builder: docker, podman or buildah, else the first of them that is installed.
set -eu
cd "$(dirname "$0")/../.."
version=$(sed -n 's/^__version__ = "\(.*\)"/\1/p' geopipe/__init__.py)
revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)
ENGINE=${ENGINE:-$(command -v docker || command -v podman || command -v buildah)}
export ENGINE BUILDAH_FORMAT=docker # the format that has health checks
"$ENGINE" build --tag "geopipe:$version" --build-arg "VERSION=$version" --build-arg "REVISION=$revision" "$@" .
cluster/image/run.sh "geopipe:$version" geopipe demo --folder /tmp/demo
