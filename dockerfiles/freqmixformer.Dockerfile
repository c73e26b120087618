# FreqMixFormer. Built from the repository root, after the base:
#
#   docker build -t skeleton-lab:freqmixformer -f dockerfiles/freqmixformer.Dockerfile .
#   docker run --rm --gpus all skeleton-lab:freqmixformer python3 main.py --help
ARG COMMON_IMAGE=skeleton-lab:base
FROM ${COMMON_IMAGE} AS packages
# hadolint ignore=DL3002
USER 0:0
# Packages of its own, before its code, so that a change in the code does not install them again; wheels as in base.Dockerfile.
COPY dockerfiles/install_requirements.sh models/freqmixformer/requirements.txt .buil[d]/image-wheels/freqmixformer/*.whl /wheels/
RUN sh /wheels/install_requirements.sh /opt/skeleton-lab/model

FROM ${COMMON_IMAGE}
LABEL org.opencontainers.image.description="FreqMixFormer of Skeleton Action Lab" \
      org.skeleton-lab.model="freqmixformer"
USER 0:0
COPY --from=packages /opt/skeleton-lab/model /opt/skeleton-lab/model
COPY models/freqmixformer /workspace/models/freqmixformer
RUN chmod -R a+rX,go-w /workspace/models/freqmixformer \
    && python3 -m compileall -q --invalidation-mode checked-hash /workspace/models/freqmixformer
USER 10001:10001
WORKDIR /workspace/models/freqmixformer
CMD ["python3", "main.py", "--help"]
