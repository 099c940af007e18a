# geopipe with its libraries and compiled kernels, for all nodes of a cluster and for a machine alone.
#
#   make image                                     or: docker build --tag geopipe:0.1.0 .
#   docker run --rm --shm-size=2g geopipe:0.1.0 geopipe demo
#
# Arguments, each by --build-arg:
#   BASE           any image of Debian or Ubuntu that has Python 3.11 with venv
#   EXTRAS         of "aws h3 regions"; aws is for the head of `ray up` on AWS
#   PACKAGES       of Debian: "rsync openssh-client" for `ray up`, whose head starts workers by ssh
#   CPU            the oldest processor of the cluster in LLVM's words; "generic" for all, also for ARM
#   PIP_INDEX_URL  an index of your own
ARG BASE=python:3.11.14-slim-bookworm

FROM ${BASE} AS build
ARG EXTRAS="h3"
ARG PIP_INDEX_URL
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build

# requirements.lock pins what tests use; the lists name what an image needs of it. aws.lock is apart: botocore asks for
# an older python-dateutil than matplotlib, and works with the newer one.
COPY requirements.lock cluster/image/*.txt cluster/image/aws.lock ./
RUN set -e; \
    pick() { awk 'FNR == NR { names[$1]; next } /^[^ ]/ { split($1, pin, "=="); keep = pin[1] in names } keep' \
        - requirements.lock; }; \
    pick < build.txt > build.lock; \
    for list in runtime ${EXTRAS}; do [ "$list" = aws ] || cat "$list.txt"; done > names; \
    pick < names > runtime.lock; \
    python3 -m venv tools; python3 -m venv --without-pip /opt/geopipe; \
    tools/bin/pip install --require-hashes -r build.lock; \
    install="tools/bin/pip --python /opt/geopipe/bin/python install --require-hashes --only-binary :all:"; \
    $install -r runtime.lock; \
    case "${EXTRAS}" in *aws*) $install --no-deps -r aws.lock;; esac; \
    find /opt/geopipe -type d -name tests -path '*/site-packages/*/tests' -prune -exec rm -r {} +

COPY pyproject.toml README.md LICENSE ./
COPY geopipe geopipe
COPY cluster/grafana cluster/grafana
COPY cluster/prometheus cluster/prometheus
COPY k8s k8s
RUN tools/bin/pip wheel --no-deps --no-build-isolation --wheel-dir dist . && \
    tools/bin/pip --python /opt/geopipe/bin/python install --no-deps dist/*.whl

# Machine code for one processor, which newer ones run, too: kernels compiled for the builder's own would not be used
# on another.
ARG CPU=x86-64-v3
ENV NUMBA_CPU_NAME=${CPU} NUMBA_CPU_FEATURES="" NUMBA_CACHE_DIR=/opt/geopipe/kernels
RUN /opt/geopipe/bin/geopipe doctor --warm && chmod -R a+rX,go-w /opt/geopipe


FROM ${BASE}
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG CPU=x86-64-v3
LABEL org.opencontainers.image.title="geopipe" \
      org.opencontainers.image.description="Many rasters in, one table out" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

ARG PACKAGES=""
RUN if [ -n "${PACKAGES}" ]; then \
        apt-get update && apt-get install --yes --no-install-recommends ${PACKAGES} && rm -r /var/lib/apt/lists/*; \
    fi

# KubeRay and restricted pods expect 1000:100. The code is root's: a job cannot change it. Login shells, which `ray up`
# uses, set a PATH of their own.
RUN useradd --uid 1000 --gid 100 --create-home --shell /bin/bash geopipe && \
    install --directory --owner=1000 --group=100 /data && \
    echo 'PATH=/opt/geopipe/bin:$PATH' > /etc/profile.d/geopipe.sh
COPY --from=build /opt/geopipe /opt/geopipe
ENV PATH=/opt/geopipe/bin:$PATH HOME=/home/geopipe \
    PYTHONDONTWRITEBYTECODE=1 \
    NUMBA_CPU_NAME=${CPU} NUMBA_CPU_FEATURES="" NUMBA_CACHE_DIR=/opt/geopipe/kernels \
    RAY_USAGE_STATS_ENABLED=0
USER 1000:100
WORKDIR /home/geopipe
HEALTHCHECK --interval=2m --timeout=60s --start-period=60s CMD ["geopipe", "doctor"]
CMD ["geopipe", "doctor"]
