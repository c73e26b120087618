# SCD-Net. Built from the repository root, after the base:
#
#   docker build -t skeleton-lab:scdnet -f dockerfiles/scdnet.Dockerfile .
#   docker run --rm --gpus all skeleton-lab:scdnet python3 main.py --help
ARG COMMON_IMAGE=skeleton-lab:base
FROM ${COMMON_IMAGE} AS packages
# hadolint ignore=DL3002
USER 0:0
# Packages of its own, before its code, so that a change in the code does not install them again; wheels as in base.Dockerfile.
COPY dockerfiles/install_requirements.sh models/scdnet/requirements.txt .buil[d]/image-wheels/scdnet/*.whl /wheels/
RUN sh /wheels/install_requirements.sh /opt/skeleton-lab/model

FROM ${COMMON_IMAGE}
LABEL org.opencontainers.image.description="SCD-Net of Skeleton Action Lab" \
      org.skeleton-lab.model="scdnet"
USER 0:0
COPY --from=packages /opt/skeleton-lab/model /opt/skeleton-lab/model
COPY models/scdnet /workspace/models/scdnet
RUN chmod -R a+rX,go-w /workspace/models/scdnet \
    && python3 -m compileall -q --invalidation-mode checked-hash /workspace/models/scdnet
USER 10001:10001
WORKDIR /workspace/models/scdnet
CMD ["python3", "main.py", "--help"]
