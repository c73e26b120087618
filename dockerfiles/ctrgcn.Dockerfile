# CTR-GCN. Built from the repository root, after the base:
#
#   docker build -t skeleton-lab:ctrgcn -f dockerfiles/ctrgcn.Dockerfile .
#   docker run --rm --gpus all skeleton-lab:ctrgcn python3 main.py --help
ARG COMMON_IMAGE=skeleton-lab:base
FROM ${COMMON_IMAGE} AS packages
# hadolint ignore=DL3002
USER 0:0
# Packages of its own, before its code, so that a change in the code does not install them again; wheels as in base.Dockerfile.
COPY dockerfiles/install_requirements.sh models/ctrgcn/requirements.txt .buil[d]/image-wheels/ctrgcn/*.whl /wheels/
RUN sh /wheels/install_requirements.sh /opt/skeleton-lab/model

FROM ${COMMON_IMAGE}
LABEL org.opencontainers.image.description="CTR-GCN of Skeleton Action Lab" \
      org.skeleton-lab.model="ctrgcn"
USER 0:0
COPY --from=packages /opt/skeleton-lab/model /opt/skeleton-lab/model
COPY models/ctrgcn /workspace/models/ctrgcn
RUN chmod -R a+rX,go-w /workspace/models/ctrgcn \
    && python3 -m compileall -q --invalidation-mode checked-hash /workspace/models/ctrgcn
USER 10001:10001
WORKDIR /workspace/models/ctrgcn
CMD ["python3", "main.py", "--help"]
