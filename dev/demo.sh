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

[ -r "$text" ] || { echo "error: TEXT=$text cannot be read; pass a plain text file" >&2; exit 1; }
[ "$(wc -c <"$text")" -ge 12000 ] || { echo "error: TEXT=$text has $(wc -c <"$text") bytes; the demo needs 12,000 or more, so that a tenth is enough to validate on" >&2; exit 1; }

rm -f data/demo.tok  # of another text: a run keeps its own
say "preparing $text"
./prepare "$text" --tokenizer char --out data/demo | sed '/^train with/,$d'

say "training: 4 layers, 128 channels, 1.2 million characters"
mkdir -p runs
if [ -e runs/demo ]; then  # it may have been trained further
    old=runs/demo.old n=2
    while [ -e "$old" ]; do old=runs/demo.old$n n=$((n + 1)); done
    mv runs/demo "$old" && echo "(what an earlier demo trained is in $old now)"
fi
mkdir runs/demo
./train_rwkv --train data/demo_train.bin --val data/demo_val.bin --out runs/demo --log runs/demo/log.jsonl \
    --layers 4 --dim 128 --ctx 64 --batch 16 --steps 1200 --lr 2e-3 --lr-final 1e-4 --warmup 20 \
    --eval-every 200 --eval-batches 50 --sample-every 400 --sample-tokens 400 --temperature 0.8

say "the loss"
./plot runs/demo/log.jsonl --out loss.svg
cat <<END

== done. The curve is in loss.svg, the model in runs/demo. Try next:
  ./train_rwkv --help                                                      every option
  ./prepare YOUR.txt --tokenizer byte --out data/mine                      your own text; it prints the training command
  ./train_rwkv --out runs/demo --resume --steps 2400 --log runs/demo/log.jsonl       train it further
END
