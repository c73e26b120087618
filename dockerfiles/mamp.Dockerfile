# MAMP and STARS. Built from the repository root, after the base:
#
#   docker build -t skeleton-lab:mamp -f dockerfiles/mamp.Dockerfile .
#   docker run --rm --gpus all skeleton-lab:mamp python3 main.py --help
ARG COMMON_IMAGE=skeleton-lab:base
FROM ${COMMON_IMAGE} AS packages
# hadolint ignore=DL3002
USER 0:0
# Packages of its own, before its code, so that a change in the code does not install them again; wheels as in base.Dockerfile.
COPY dockerfiles/install_requirements.sh models/mamp/requirements.txt .buil[d]/image-wheels/mamp/*.whl /wheels/
RUN sh /wheels/install_requirements.sh /opt/skeleton-lab/model

FROM ${COMMON_IMAGE}
LABEL org.opencontainers.image.description="MAMP and STARS of Skeleton Action Lab" \
      org.skeleton-lab.model="mamp"
USER 0:0
COPY --from=packages /opt/skeleton-lab/model /opt/skeleton-lab/model
COPY models/mamp /workspace/models/mamp
RUN chmod -R a+rX,go-w /workspace/models/mamp \
    && python3 -m compileall -q --invalidation-mode checked-hash /workspace/models/mamp
USER 10001:10001
WORKDIR /workspace/models/mamp
CMD ["python3", "main.py", "--help"]
