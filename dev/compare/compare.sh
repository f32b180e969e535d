#!/bin/bash
# dev/compare/compare.sh: trains RWKV-4 and GPT-2 side by side and says what came out. What `make compare` runs.
#
#     make compare                              809 thousand parameters, three seeds, on two CPU cores within 15 minutes
#     make compare SIZE=90m TEXT=wiki.txt       92 million, on a GPU
#     make compare SIZE=rwkv7 TEXT=book.txt     RWKV-7 against RWKV-4 on bytes, 1.02 million, on two CPU cores
#     make compare SIZE=seed TEXT=wiki.txt      the run that started this project, as it was: RWKV 92M, GPT-2 85M
#
# Both models get the same tokens in the same order, the same optimizer, and are evaluated on the same batches after the
# same steps. Where the size says "search", each model's learning rate is found by short runs first, a factor of 2 apart,
# until the best lies between two that are worse. Writes OUT/compare.md, two SVGs, report.html and the logs.
# TEXT=FILE, PROMPT=TEXT, SEEDS="1 2 3", STEPS=N, OUT=runs/compare-SIZE, BIN=. (where the programs are)
set -euo pipefail
cd "$(dirname "$0")/../.."
SIZE=${SIZE:-cpu} SEEDS=${SEEDS:-1 2 3} OUT=${OUT:-runs/compare-$SIZE} BIN=${BIN:-.} TEXT=${TEXT-} PROMPT=${PROMPT-}

# shellcheck disable=SC2016  # the quotes around PROMPT are to be shown
command="make compare SIZE=$SIZE${TEXT:+ TEXT=$TEXT}${PROMPT:+ PROMPT='$PROMPT'}${STEPS:+ STEPS=$STEPS}$([ "$SEEDS" = "1 2 3" ] || echo " SEEDS='$SEEDS'")"

stop() { echo "error: $*" >&2; exit 1; }
say() { printf '\n== %s\n' "$*"; }

# The entrants: key | name | program | options. The first is compared with each of the others.
keep="" search="" lr="" tokenizer=char models="RWKV-4 and GPT-2"
optimizer="--beta1 0.9 --beta2 0.99 --eps 1e-8 --weight-decay 0.01 --clip 1 --l2wrap 0 --schedule cosine"
sampling="--temperature 0.8 --top-p 1 --sample-tokens 300"
case $SIZE in
cpu)  # one width, one depth; RWKV-4's F is 3.5 C, which gives both models 12 C^2 parameters a layer
    entrants="rwkv4 | RWKV-4 | train_rwkv | --layers 4 --dim 128 --ffn 448
              gpt2  | GPT-2  | train_gpt2 | --layers 4 --dim 128 --heads 4"
    batch="--ctx 128 --batch 8" steps=1000 evals=5 eval_batches=50 search=2e-3 ;;
rwkv7) # one width, one depth; F = 4.75 C makes up for RWKV-7's LoRAs
    entrants="rwkv7 | RWKV-7 | train_rwkv7 | --layers 4 --dim 128
              rwkv4 | RWKV-4 | train_rwkv  | --layers 4 --dim 128 --ffn 608"
    tokenizer=byte models="RWKV-7 and RWKV-4"
    batch="--ctx 128 --batch 8" steps=800 evals=8 eval_batches=50 search=2e-3 ;;
90m)  # both as published, F = 4C; a little more width makes up for RWKV-4's fifth C^2 of a layer
    entrants="rwkv4 | RWKV-4 | train_rwkv | --layers 12 --dim 768
              gpt2  | GPT-2  | train_gpt2 | --layers 12 --dim 800 --heads 10"
    batch="--ctx 256 --batch 8" steps=5000 evals=10 eval_batches=200 keep='a-zA-Z \n.,' search=6e-4 ;;
seed) # the opponent of that run, its two peculiarities taken back one at a time, and ReLU for GELU
    gpt="--layers 12 --dim 768 --head untied-bias --bias not-qkv"
    entrants="rwkv4     | RWKV-4                          | train_rwkv | --layers 12 --dim 768
              gpt2      | GPT-2 (64 heads, dropout, ReLU) | train_gpt2 | $gpt --heads 64 --activation relu --dropout 0.2
              gpt2-gelu | the same with GELU              | train_gpt2 | $gpt --heads 64 --activation gelu --dropout 0.2
              gpt2-12   | the same, 12 heads, no dropout  | train_gpt2 | $gpt --heads 12 --activation gelu"
    optimizer="--beta1 0.9 --beta2 0.999 --eps 1e-8 --weight-decay 0.01 --clip 0 --l2wrap 0 --schedule constant"
    sampling="--temperature 1 --top-p 1 --sample-tokens 500"
    batch="--ctx 256 --batch 8" steps=5000 evals=10 eval_batches=200 keep='a-zA-Z \n.,' lr=3e-4 ;;
*) stop "SIZE=$SIZE is not one of cpu, rwkv7, 90m, seed" ;;
esac
steps=${STEPS:-$steps} trial_steps=$((steps / 3)) every=$((steps / evals))
warmup=${search:+4}  # percent of the steps

keys=() && declare -A name program shape
while IFS='|' read -r key n p o; do
    key=${key// /} && keys+=("$key")
    name[$key]=$(xargs <<<"$n") program[$key]=$BIN/${p// /} shape[$key]=$(xargs <<<"$o")
    [ -x "${program[$key]}" ] || stop "${program[$key]} is not there; run make first"
done <<<"$entrants"

# ---------------------------------------------------------------- the text
if [ -n "$TEXT" ]; then
    [ -r "$TEXT" ] || stop "TEXT=$TEXT cannot be read; pass a plain text file"
elif [ "$SIZE" = 90m ] || [ "$SIZE" = seed ]; then
    TEXT=data/wikitext-103.txt
    [ -s $TEXT ] || stop "SIZE=$SIZE trains on a text of Wikipedia: pass TEXT=FILE, or fetch $TEXT with data_prep/download.sh wikitext-103"
elif [ -s data/tinyshakespeare.txt ] || data_prep/download.sh tinyshakespeare >/dev/null 2>&1; then
    TEXT=data/tinyshakespeare.txt
else
    TEXT=data/stories.txt
    mkdir -p data
    [ -s $TEXT ] || "$BIN/stories" --bytes 4000000 --seed 1 --out $TEXT
fi
if [ -z "$PROMPT" ]; then
    case $TEXT in *shakespeare*) PROMPT=ROMEO: ;; *stories*) PROMPT="Once upon a time" ;; *) [ "$SIZE" = cpu ] || [ "$SIZE" = rwkv7 ] || PROMPT="Soviet Union" ;; esac
fi
mkdir -p "$OUT"
rm -f "$OUT"/*.jsonl "$OUT"/*.out "$OUT"/compare.md "$OUT"/*.svg "$OUT"/report.html "$OUT"/text.tok
"$BIN/prepare" "$TEXT" --tokenizer "$tokenizer" ${keep:+--keep "$keep"} --out "$OUT/text" >"$OUT/prepare.out"
grep -E 'characters|alphabet|bytes' "$OUT/prepare.out" || true

# ---------------------------------------------------------------- one run
val=(--val "$OUT/text_val.bin" --eval-batches "$eval_batches")
# train KEY LR STEPS SEED LOG [OPTION ...]; a run that fails leaves its sentence in LOG.out
train() {
    local key=$1 lr=$2 steps=$3 seed=$4 log=$5
    shift 5
    # shellcheck disable=SC2086  # lists of options
    "${program[$key]}" --train "$OUT/text_train.bin" ${shape[$key]} $batch $optimizer --lr "$lr" --lr-final "$(awk "BEGIN { print $lr / 10 }")" \
        --warmup $((${warmup:-0} * steps / 100)) --steps "$steps" --seed "$seed" --log "$log.jsonl" "$@" >"$log.out" 2>&1
}
field() { sed -n "s/.*\"$1\":\\([0-9.e+-]*\\).*/\\1/p" "$2"; }
last_val() { field val_loss "$1" | tail -1; }

# ---------------------------------------------------------------- are they of one size?
say "sizes"
declare -A parameters
for key in "${keys[@]}"; do
    train "$key" 1e-4 1 1 "$OUT/size" --sample-tokens 0 || stop "${program[$key]}: $(grep -m1 ^error "$OUT/size.out" | cut -d' ' -f2-)"
    parameters[$key]=$(sed -n 's/.* \([0-9,]*\) parameters.*/\1/p' "$OUT/size.out" | head -1 | tr -d ,)
    printf '%-34s %12s parameters   %s %s\n' "${name[$key]}" "${parameters[$key]}" "$(basename "${program[$key]}")" "${shape[$key]}"
    device=$(sed -n 's/.* parameters, \(.* on .*\)/\1/p' "$OUT/size.out" | head -1)
    off=$(awk "BEGIN { d = ${parameters[$key]} / ${parameters[${keys[0]}]} - 1; printf \"%.1f\", d < 0 ? -100 * d : 100 * d }")
    [ "$SIZE" = seed ] || awk "BEGIN { exit !($off <= 5) }" || stop "${name[$key]} has $off % more or fewer parameters than ${name[${keys[0]}]}; at most 5 % make a fair comparison: change the shapes in this script"
done
rm -f "$OUT"/size.*
[ "$SIZE" != seed ] || [ "${parameters[gpt2]}" = 85311032 ] || stop "their GPT-2 had 85311032 parameters, this one has ${parameters[gpt2]}: does $TEXT have all 56 characters of '$keep'?"

# ---------------------------------------------------------------- learning rates
declare -A best tried
for key in "${keys[@]}"; do
    best[$key]=$lr
    [ -n "$search" ] || continue
    say "learning rate of ${name[$key]}, $trial_steps steps each"
    rates=()
    try() {  # its validation loss goes to tried[KEY RATE]
        train "$key" "$1" "$trial_steps" 1 "$OUT/trial-$key-$1" "${val[@]}" --eval-every 0 --sample-tokens 0 || true
        tried[$key $1]=$(last_val "$OUT/trial-$key-$1.jsonl" 2>/dev/null || true)
        tried[$key $1]=$(printf %.4f "${tried[$key $1]:-999}")
        printf '  %-8s %s\n' "$1" "${tried[$key $1]/#999.0000/not finite}"
    }
    times() { awk "BEGIN { printf \"%.3g\", $1 * $2 }"; }
    for r in "$(times $search 0.5)" "$(times $search 1)" "$(times $search 2)"; do try "$r" && rates+=("$r"); done
    while [ ${#rates[@]} -lt 7 ]; do  # to the side where it still falls
        best[$key]=$(for r in "${rates[@]}"; do echo "${tried[$key $r]} $r"; done | sort -g | awk 'NR == 1 { print $2 }')
        if [ "${best[$key]}" = "${rates[0]}" ]; then r=$(times "${rates[0]}" 0.5) && rates=("$r" "${rates[@]}")
        elif [ "${best[$key]}" = "${rates[-1]}" ]; then r=$(times "${rates[-1]}" 2) && rates+=("$r")
        else break; fi
        try "$r"
    done
    [ "${tried[$key ${best[$key]}]}" != 999.0000 ] || stop "no learning rate worked for ${name[$key]}: $(grep -hm1 ^error "$OUT"/trial-"$key"-*.out | head -1)"
done

# ---------------------------------------------------------------- the runs: all models with one seed, then with the next
for seed in $SEEDS; do
    for key in "${keys[@]}"; do
        say "${name[$key]}, seed $seed, learning rate ${best[$key]}"
        log=$OUT/$key-$seed
        # shellcheck disable=SC2086
        train "$key" "${best[$key]}" "$steps" "$seed" "$log" "${val[@]}" --eval-every "$every" $sampling --sample-every 0 ${PROMPT:+--prompt "$PROMPT"} ||
            stop "${program[$key]} stopped: $(grep -m1 ^error "$log.out" | cut -d' ' -f2-) (all it said is in $log.out)"
        grep 'validation loss' "$log.out" | tail -1
    done
done

# ---------------------------------------------------------------- the report
curves=()
for key in "${keys[@]}"; do
    curves+=("${name[$key]}:")
    for seed in $SEEDS; do curves+=("$OUT/$key-$seed.jsonl"); done
done
y_max=$(for f in "$OUT"/*-[0-9]*.jsonl; do case $f in */trial-*) ;; *) field val_loss "$f" | head -1 ;; esac; done | sort -g | tail -1 | awk '{ print $1 * 1.08 }')
text=$(basename "$TEXT")
title="$models on $text"
"$BIN/plot" "${curves[@]}" --x steps --y-max "$y_max" --title "$title" --out "$OUT/loss-by-steps.svg" --html "$OUT/report.html" --markdown "$OUT/table.md"
"$BIN/plot" "${curves[@]}" --x seconds --y-max "$y_max" --title "$title" --out "$OUT/loss-by-seconds.svg" >/dev/null

# Mean and standard error of the last validation loss over the seeds, median time of a step without the first fifth
loss_of() { for seed in $SEEDS; do last_val "$OUT/$1-$seed.jsonl"; done | awk '{ s += $1; q += $1 * $1; n++ } END { v = n > 1 ? (q - s * s / n) / (n - 1) / n : 0; print s / n, (v > 0 ? v : 0) }'; }
ms_of() { for seed in $SEEDS; do field ms "$OUT/$1-$seed.jsonl" | tail -n +$((steps / 5 + 1)); done | sort -g | awk '{ v[NR] = $1 } END { print v[int(NR / 2) + 1] }'; }
verdict() {  # KEY: the first entrant against this one
    awk -v a="$(loss_of "${keys[0]}") $(ms_of "${keys[0]}")" -v b="$(loss_of "$1") $(ms_of "$1")" -v A="${name[${keys[0]}]}" -v B="${name[$1]}" -v n="$(wc -w <<<"$SEEDS")" 'BEGIN {
        split(a, x, " "); split(b, y, " "); d = x[1] - y[1]; e = sqrt(x[2] + y[2])
        printf "* Validation loss of %s against %s: %.4f against %.4f, %.4f %s", A, B, x[1], y[1], d < 0 ? -d : d, d < 0 ? "lower" : "higher"
        if (n > 1) printf " (standard error of the difference over %d seeds: %.4f)", n, e
        printf ".\n* Time of a training step: %.4g ms against %.4g ms, %.2f times as long.\n", x[3], y[3], x[3] / y[3] }'
}
{
    echo "# $title"
    echo
    echo "$(date +%F), $device, $(git describe --always --dirty 2>/dev/null | sed 's/^/commit /'). Made by \`$command\`; how and why: dev/compare/README.md."
    echo
    for key in "${keys[@]:1}"; do verdict "$key"; done
    printf '\n![loss by steps](loss-by-steps.svg)\n![loss by seconds](loss-by-seconds.svg)\n\n'
    cat "$OUT/table.md"
    printf '\n## Fairness\n\n'
    echo "* Parameters: $(for key in "${keys[@]}"; do echo "${name[$key]} ${parameters[$key]}"; done | paste -sd, | sed 's/,/, /g')."
    echo "* The same shards, batches of the same tokens in the same order for a seed, and \`$optimizer\` for all."
    if [ -n "$search" ]; then
        echo "* Each has the learning rate that was best for it in runs of $trial_steps steps with seed 1 (validation loss; the chosen one is **bold**),"
        echo "  with a warm-up of $warmup % of the steps and a fall to a tenth:"
        echo
        printf '| learning rate |' && for key in "${keys[@]}"; do printf ' %s |' "${name[$key]}"; done
        printf '\n|---:|' && printf -- '---:|%.0s' "${keys[@]}" && echo
        for r in $(for k in "${!tried[@]}"; do echo "${k#* }"; done | sort -gu); do
            printf '| %s |' "$r"
            for key in "${keys[@]}"; do
                v=${tried[$key $r]:--}
                [ "$v" != 999.0000 ] || v="not finite"
                [ "$r" = "${best[$key]}" ] && printf ' **%s** |' "$v" || printf ' %s |' "$v"
            done
            echo
        done
    else
        echo "* Learning rate $lr, constant, for all: that of the original run."
    fi
    printf '\n## Commands\n\n```\n'
    for key in "${keys[@]}"; do echo "./$(basename "${program[$key]}") ${shape[$key]} $batch $optimizer --lr ${best[$key]} --steps $steps --eval-every $every --eval-batches $eval_batches"; done
    printf '```\n'
} >"$OUT/compare.md"
rm -f "$OUT/table.md"
say "wrote $OUT/compare.md, loss-by-steps.svg, loss-by-seconds.svg, report.html"
grep '^\* Valid\|^\* Time' "$OUT/compare.md"
