# LaSA. Built from the repository root, after the base:
#
#   docker build -t skeleton-lab:lasa -f dockerfiles/lasa.Dockerfile .
#   docker run --rm --gpus all skeleton-lab:lasa python3 main.py --help
ARG COMMON_IMAGE=skeleton-lab:base
FROM ${COMMON_IMAGE} AS packages
# hadolint ignore=DL3002
USER 0:0
# Packages of its own, before its code, so that a change in the code does not install them again; wheels as in base.Dockerfile.
COPY dockerfiles/install_requirements.sh models/lasa/requirements.txt .buil[d]/image-wheels/lasa/*.whl /wheels/
RUN sh /wheels/install_requirements.sh /opt/skeleton-lab/model

FROM ${COMMON_IMAGE}
LABEL org.opencontainers.image.description="LaSA of Skeleton Action Lab" \
      org.skeleton-lab.model="lasa"
USER 0:0
COPY --from=packages /opt/skeleton-lab/model /opt/skeleton-lab/model
COPY models/lasa /workspace/models/lasa
RUN chmod -R a+rX,go-w /workspace/models/lasa \
    && python3 -m compileall -q --invalidation-mode checked-hash /workspace/models/lasa
USER 10001:10001
WORKDIR /workspace/models/lasa
CMD ["python3", "main.py", "--help"]
