#!/bin/bash
# demo.sh: what `make demo` runs: text -> shards -> a trained RWKV-4 -> a loss curve and text that it wrote.
# TEXT=FILE trains on your own text instead.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '\n== %s\n' "$*"; }
if [ -n "${TEXT-}" ]; then
    text=$TEXT
elif [ -s data/tinyshakespeare.txt ] || data_prep/download.sh tinyshakespeare >/dev/null 2>&1; then
    text=data/tinyshakespeare.txt
else
    text=data/stories.txt
    mkdir -p data
    [ -s "$text" ] || ./stories --bytes 4000000 --seed 1 --out "$text"
    say "no network (or no curl): training on 4 MB of made-up stories instead of Shakespeare"
fi

say "preparing $text"
./prepare "$text" --tokenizer char --out data/demo | sed '/^train with/,$d'

say "training: 4 layers, 128 channels, 1.2 million characters"
rm -rf runs/demo && mkdir -p runs/demo
./train_rwkv --train data/demo_train.bin --val data/demo_val.bin --out runs/demo --log runs/demo/log.jsonl \
    --layers 4 --dim 128 --ctx 64 --batch 16 --steps 1200 --lr 2e-3 --lr-final 1e-4 --warmup 20 \
    --eval-every 200 --eval-batches 50 --sample-every 400 --sample-tokens 400 --temperature 0.8

say "the loss"
./plot runs/demo/log.jsonl --out loss.svg
cat <<END

== done. The curve is in loss.svg, the model in runs/demo. Try next:
  ./train_rwkv --help                                                      every option
  ./prepare YOUR.txt --tokenizer byte --out data/mine                      your own text; it prints the training command
  ./train_rwkv --train data/demo_train.bin --val data/demo_val.bin --out runs/demo --log runs/demo/log.jsonl \\
      --layers 4 --dim 128 --ctx 64 --batch 16 --steps 2400 --lr 2e-3 --resume     train it further
END
