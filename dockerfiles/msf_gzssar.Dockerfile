# MSF-GZSSAR. Built from the repository root, after the base:
#
#   docker build -t skeleton-lab:msf_gzssar -f dockerfiles/msf_gzssar.Dockerfile .
#   docker run --rm --gpus all skeleton-lab:msf_gzssar python3 main.py --help
ARG COMMON_IMAGE=skeleton-lab:base
FROM ${COMMON_IMAGE} AS packages
# hadolint ignore=DL3002
USER 0:0
# Packages of its own, before its code, so that a change in the code does not install them again; wheels as in base.Dockerfile.
COPY dockerfiles/install_requirements.sh models/msf_gzssar/requirements.txt .buil[d]/image-wheels/msf_gzssar/*.whl /wheels/
RUN sh /wheels/install_requirements.sh /opt/skeleton-lab/model

FROM ${COMMON_IMAGE}
LABEL org.opencontainers.image.description="MSF-GZSSAR of Skeleton Action Lab" \
      org.skeleton-lab.model="msf_gzssar"
USER 0:0
COPY --from=packages /opt/skeleton-lab/model /opt/skeleton-lab/model
COPY models/msf_gzssar /workspace/models/msf_gzssar
RUN chmod -R a+rX,go-w /workspace/models/msf_gzssar \
    && python3 -m compileall -q --invalidation-mode checked-hash /workspace/models/msf_gzssar
USER 10001:10001
WORKDIR /workspace/models/msf_gzssar
CMD ["python3", "main.py", "--help"]
