#!/bin/sh
# Run a command in an image as user 1000, who cannot change the code: cluster/image/run.sh IMAGE COMMAND [ARGUMENT ...]
set -eu
ENGINE=${ENGINE:-$(command -v docker || command -v podman || command -v buildah)}
image=$1
shift
case $ENGINE in
*buildah) # runs no container with a read-only root: the code is safe as root's files
    container=$(buildah from --pull-never "$image")
    trap 'buildah rm "$container" > /dev/null' EXIT
    buildah run --user 1000:100 "$container" -- "$@"
    ;;
*)
    "$ENGINE" run --rm --read-only --user 1000:100 --cap-drop=ALL --security-opt=no-new-privileges --shm-size=2g \
        --tmpfs /tmp:mode=1777,exec --tmpfs /home/geopipe:mode=1777 "$image" "$@"
    ;;
esac
