#!/usr/bin/env bash
# All five stages of FS-VAE for every published task of NTU-60 and every choice of texts, from sk_feats/ and text_feats/ where
# you are into results/ there: bash fsvae_60.sh [flags of main.py published]
set -euo pipefail
exec python3 "$(dirname "${BASH_SOURCE[0]}")/main.py" published --ntu 60 "$@"
