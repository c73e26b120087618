# MS-G3D. Built from the repository root, after the base:
#
#   docker build -t skeleton-lab:msg3d -f dockerfiles/msg3d.Dockerfile .
#   docker run --rm --gpus all skeleton-lab:msg3d python3 main.py --help
ARG COMMON_IMAGE=skeleton-lab:base
FROM ${COMMON_IMAGE} AS packages
# hadolint ignore=DL3002
USER 0:0
# Packages of its own, before its code, so that a change in the code does not install them again; wheels as in base.Dockerfile.
COPY dockerfiles/install_requirements.sh models/msg3d/requirements.txt .buil[d]/image-wheels/msg3d/*.whl /wheels/
RUN sh /wheels/install_requirements.sh /opt/skeleton-lab/model

FROM ${COMMON_IMAGE}
LABEL org.opencontainers.image.description="MS-G3D of Skeleton Action Lab" \
      org.skeleton-lab.model="msg3d"
USER 0:0
COPY --from=packages /opt/skeleton-lab/model /opt/skeleton-lab/model
COPY models/msg3d /workspace/models/msg3d
RUN chmod -R a+rX,go-w /workspace/models/msg3d \
    && python3 -m compileall -q --invalidation-mode checked-hash /workspace/models/msg3d
USER 10001:10001
WORKDIR /workspace/models/msg3d
CMD ["python3", "main.py", "--help"]
