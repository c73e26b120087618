# The image all models share: PyTorch, the shared requirements, the shared code. Built from the repository root:
#
#   docker build -t skeleton-lab:base -f dockerfiles/base.Dockerfile .
#
# BASE_IMAGE moves every image to another PyTorch and CUDA (a newer GPU, a CPU-only base, a base made by tools/make_local_base.sh).
# The contract of a base: python3 and pip on PATH, torch importable, /bin/sh; tini, or else apt (Debian, Ubuntu) and a network in
# the one step that installs it.
# A tag can be moved by its owner, a digest cannot. To pin: docker pull the image once, read its digest with
#   docker image inspect --format '{{index .RepoDigests 0}}' pytorch/pytorch:2.3.1-cuda12.1-cudnn8-runtime
# and name it here, or say it on every build: bash build_all_images.sh --base-image pytorch/pytorch@sha256:…
# Only features that BuildKit and the legacy builder both have; docs/docker.md tells why.
ARG BASE_IMAGE=pytorch/pytorch:2.3.1-cuda12.1-cudnn8-runtime

FROM ${BASE_IMAGE} AS system
# "1" (build_all_images.sh --with-compiler): also what torch.compile and Triton need at run time, and runtime bases leave out.
ARG WITH_COMPILER=
LABEL org.skeleton-lab.compiler="${WITH_COMPILER}"
# hadolint ignore=DL3002
USER 0:0
# tini is process 1 of every image, also where nobody says --init. Debian's Python keeps its headers in a package of their own;
# others (conda) bring them along. Only a base that lacks something needs apt and a network, in this one step.
# hadolint ignore=DL3008,SC2086
RUN wanted='' \
    && if ! command -v tini >/dev/null; then wanted=tini; fi \
    && if [ -n "$WITH_COMPILER" ]; then \
        wanted="$wanted gcc g++ libc6-dev" \
        && if ! test -f "$(python3 -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h"; then \
            wanted="$wanted python3-dev"; \
        fi; \
    fi \
    && if [ -n "$wanted" ]; then \
        apt-get update -qq \
        && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $wanted \
        && rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/log/apt /var/log/dpkg.log; \
    fi

FROM system AS packages
# The last source is a pattern that matches nothing unless build_all_images.sh has put wheels there for a build without network.
# Its first folder is a pattern too: BuildKit stops where a folder that is named is not there.
COPY dockerfiles/install_requirements.sh dockerfiles/requirements.txt .buil[d]/image-wheels/base/*.whl /wheels/
# A folder of its own, in front of the base's packages on PYTHONPATH: one small layer, whatever the base's Python is and wherever
# it keeps its packages.
RUN sh /wheels/install_requirements.sh /opt/skeleton-lab/packages

FROM system
LABEL org.opencontainers.image.title="Skeleton Action Lab" \
      org.opencontainers.image.description="Shared base of the model images: PyTorch, shared requirements, shared code" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=packages /opt/skeleton-lab/packages /opt/skeleton-lab/packages
COPY dockerfiles/bin /opt/skeleton-lab/bin
# In place of the base's own ENTRYPOINT (some print a banner). -s: it collects the dead also where --init puts another one above it.
ENTRYPOINT ["tini", "-s", "--"]
# The last entry of PYTHONPATH is where a model's image puts packages of its own.
ENV PATH=/opt/skeleton-lab/bin:${PATH} \
    PYTHONPATH=/workspace:/opt/skeleton-lab/packages:/opt/skeleton-lab/model \
    SAL_WORK_DIR=/workspace/work_dir \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    USER=lab \
    XDG_CACHE_HOME=/tmp/.cache \
    TORCHINDUCTOR_CACHE_DIR=/tmp/.inductor \
    MPLCONFIGDIR=/tmp/.matplotlib
COPY shared_data /workspace/shared_data
COPY layers /workspace/layers
COPY engine /workspace/engine
COPY planner /workspace/planner
COPY sal /workspace/sal
COPY smoke_tests /workspace/smoke_tests
COPY models/__init__.py /workspace/models/__init__.py
# checked-hash: byte code of a source file that someone mounts over ours is not used.
# File modes of the checkout (umask 077) must not lock the user out. work_dir and data are the mount points of the README;
# work_dir is writable for any user, so that --user "$(id -u):$(id -g)" works.
RUN mkdir -p /workspace/data /workspace/work_dir \
    && chmod -R a+rX,go-w /workspace /opt/skeleton-lab/bin \
    && chmod a+x /opt/skeleton-lab/bin/sal \
    && chmod 1777 /workspace/work_dir \
    && python3 -m compileall -q --invalidation-mode checked-hash /workspace /opt/skeleton-lab/bin \
    && python3 -c "import torch, numpy, h5py, einops, torch_dct, safetensors.torch, yaml, jsonargparse, rich; print(torch.__version__, numpy.__version__)"
WORKDIR /workspace
USER 10001:10001
CMD ["sal", "--help"]
