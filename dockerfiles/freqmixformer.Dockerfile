# FreqMixFormer. Built from the repository root, after the base:
#
#   docker build -t skeleton-lab:freqmixformer -f dockerfiles/freqmixformer.Dockerfile .
#   docker run --rm --gpus all skeleton-lab:freqmixformer python3 main.py --help
ARG COMMON_IMAGE=skeleton-lab:base
FROM ${COMMON_IMAGE}
LABEL org.opencontainers.image.description="FreqMixFormer of Skeleton Action Lab" \
      org.skeleton-lab.model="freqmixformer"
USER 0:0
COPY models/freqmixformer /workspace/models/freqmixformer
RUN chmod -R a+rX /workspace/models \
    && python3 -m compileall -q --invalidation-mode checked-hash /workspace/models
USER 10001:10001
WORKDIR /workspace/models/freqmixformer
CMD ["python3", "main.py", "--help"]
