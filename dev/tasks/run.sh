#!/bin/bash
# dev/tasks/run.sh: what RWKV-7 learns and RWKV-4 does not: trains both alike on tasks that need a memory, prints a table.
#
#     dev/tasks/run.sh [NAME ...]        default: all of the table below, in some minutes on a CPU
#     DEVICE=gpu PRECISION=bf16 SEED=2 dev/tasks/run.sh recall
#
# Texts go to data/tasks/, models and logs to runs/tasks/. The models of a row have the same layers, channels, steps and
# tokens. What is right is counted in 2000 lines that were not trained on (dev/tasks/score.cu).
# shellcheck disable=SC2086  # the columns of the table are lists of words
set -euo pipefail
cd "$(dirname "$0")/../.."
DEVICE=${DEVICE:-cpu} PRECISION=${PRECISION:-fp32} SEED=${SEED:-1}
build=build/$DEVICE-$PRECISION

# name   | options of ./tasks               | lines  | options of the trainer
table="
reverse  | reverse --digits 12              | 200000 | --layers 2 --dim 64 --ctx 64 --batch 32 --steps 1500 --lr 4e-3 --lr-final 1e-4 --warmup 20
recall   | recall --pairs 8 --keys 64       | 150000 | --layers 2 --dim 64 --ctx 64 --batch 16 --steps 2000 --lr 4e-3 --lr-final 1e-4 --warmup 20
"
make -s DEVICE="$DEVICE" PRECISION="$PRECISION" build/tools/{tasks,prepare} "$build"/{train_rwkv,train_rwkv7,score_rwkv4,score_rwkv7}
mkdir -p data/tasks runs/tasks
echo "| task | model | parameters | seconds | tokens right | lines right | longest lines right |"
echo "|---|---|---|---|---|---|---|"
while IFS='|' read -r name task lines options; do
    name=${name// /}
    [ -n "$name" ] || continue
    (($# == 0)) || [[ " $* " == *" $name "* ]] || continue
    data=data/tasks/$name
    build/tools/tasks $task --examples $lines --seed "$SEED" --out $data.txt
    build/tools/tasks $task --examples 2000 --seed $((SEED + 1000)) --out ${data}_test.txt
    rm -f $data.tok
    build/tools/prepare $data.txt --tokenizer char --val 0 --out $data >/dev/null
    for model in rwkv4 rwkv7; do
        out=runs/tasks/$name-$model start=$SECONDS
        rm -rf $out
        "$build/train_${model%4}" --train ${data}_train.bin --out $out --sample-tokens 0 --seed "$SEED" $options >$out.log 2>&1 || { tail -3 $out.log >&2; exit 1; }
        seconds=$((SECONDS - start))
        parameters=$(sed -n 's/.* \([0-9,]*\) parameters,.*/\1/p' $out.log)
        score=$("$build/score_$model" --load $out --tokenizer $data.tok --test ${data}_test.txt)
        [[ $score =~ :\ ([0-9.]+)\ %.*,\ ([0-9.]+)\ %.*,\ ([0-9.]+)\ % ]]
        echo "| $name | $model | $parameters | $seconds | ${BASH_REMATCH[1]} % | ${BASH_REMATCH[2]} % | ${BASH_REMATCH[3]} % |"
    done
done <<<"$table"
