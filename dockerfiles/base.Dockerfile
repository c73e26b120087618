# The image all models share: PyTorch, the shared requirements, the shared code. Built from the repository root:
#
#   docker build -t skeleton-lab:base -f dockerfiles/base.Dockerfile .
#
# BASE_IMAGE moves every image to another PyTorch and CUDA (a newer GPU, a CPU-only base, a base made by tools/make_local_base.sh).
# The contract of a base: python3 and pip on PATH, torch importable, /bin/sh.
# Only features that BuildKit and the legacy builder both have; docs/docker.md tells why.
ARG BASE_IMAGE=pytorch/pytorch:2.3.1-cuda12.1-cudnn8-runtime

FROM ${BASE_IMAGE} AS packages
# hadolint ignore=DL3002
USER 0:0
# The second source is a pattern that matches nothing unless build_all_images.sh has put wheels there for a build without network.
COPY dockerfiles/requirements.txt .build/image-wheel[s]/*.whl /wheels/
# A folder of its own, in front of the base's packages on PYTHONPATH: one small layer, whatever the base's Python is and wherever
# it keeps its packages. Byte code is kept, or every start of a container would compile it again.
RUN if ls /wheels/*.whl >/dev/null 2>&1; then set -- --no-index --find-links /wheels; fi \
    && PIP_ROOT_USER_ACTION=ignore PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --disable-pip-version-check --no-cache-dir \
        --no-deps --only-binary=:all: "$@" --target /opt/skeleton-lab/packages -r /wheels/requirements.txt \
    && rm -rf /opt/skeleton-lab/packages/bin \
    && python3 -m compileall -q --invalidation-mode unchecked-hash /opt/skeleton-lab/packages \
    && chmod -R a+rX /opt/skeleton-lab

FROM ${BASE_IMAGE}
LABEL org.opencontainers.image.title="Skeleton Action Lab" \
      org.opencontainers.image.description="Shared base of the model images: PyTorch, shared requirements, shared code" \
      org.opencontainers.image.licenses="Apache-2.0"
USER 0:0
COPY --from=packages /opt/skeleton-lab /opt/skeleton-lab
# The base's own ENTRYPOINT (some print a banner) must not stand between the user's command and its output.
ENTRYPOINT []
ENV PYTHONPATH=/workspace:/opt/skeleton-lab/packages \
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
    && chmod -R a+rX /workspace \
    && chmod 1777 /workspace/work_dir \
    && python3 -m compileall -q --invalidation-mode checked-hash /workspace \
    && python3 -c "import torch, numpy, h5py, einops, torch_dct, safetensors.torch, yaml, jsonargparse, rich; print(torch.__version__, numpy.__version__)"
WORKDIR /workspace
USER 10001:10001
CMD ["python3", "-m", "sal", "--help"]
