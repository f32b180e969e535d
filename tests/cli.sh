#!/bin/bash
# cli.sh: the programs as a user meets them: what they print, how they fail, and that no kill loses anything.
. "${0%/*}/shell.sh"

# ---- a tiny data set and run
"$tools/stories" --bytes 60000 --seed 3 --out "$dir/text.txt"
"$tools/prepare" "$dir/text.txt" --tokenizer byte --out "$dir/t" >"$dir/prepare.out" || bad "prepare" "$(cat "$dir/prepare.out")"
train=("$bin/train_rwkv" --train "$dir/t_train.bin" --val "$dir/t_val.bin" --layers 2 --dim 32 --ctx 32 --lr 3e-3 --sample-tokens 20 --eval-every 10 --eval-batches 3)
if "${train[@]}" --steps 60 --out "$dir/run" --save-every 7 --log "$dir/run.jsonl" >"$dir/out" 2>&1; then ok "a run trains, evaluates, samples and saves"; else bad "a run" "$(tail -3 "$dir/out")"; fi
grep -q 'bits per byte' "$dir/out" && grep -q -- '--- sample' "$dir/out" && ok "it printed bits per byte and a sample" || bad "it printed no bits per byte or no sample"
first=$(grep -m1 '"step":1,' "$dir/run.jsonl" | sed -E 's/.*"loss":([0-9.]+).*/\1/') last=$(grep '"loss"' "$dir/run.jsonl" | tail -1 | sed -E 's/.*"loss":([0-9.]+).*/\1/')
awk -v a="$first" -v b="$last" 'BEGIN { exit !(a > 5.3 && a < 5.8 && b < a - 2) }' && ok "the loss falls from ln 256" || bad "the loss went from $first to $last"
[ "$(cd "$dir/run" && echo *)" = "step_00000056 step_00000060 tokenizer.tok" ] && ok "--keep 2 left the last two checkpoints" || bad "checkpoints: $(ls "$dir/run" | tr '\n' ' ')"

# ---- prepare, stopped
yes "a text of words" | head -c 60000000 >"$dir/big.txt"
mkdir "$dir/o"
"$tools/prepare" "$dir/big.txt" --out "$dir/o/x" >"$dir/out" 2>&1 & pid=$!
until [ -d "$dir/o/x.tmp" ] || ! kill -0 $pid 2>/dev/null; do sleep 0.005; done
kill -TERM $pid; wait $pid; rc=$?
same "prepare: SIGTERM leaves nothing" "$rc $(ls "$dir/o") $(cat "$dir/out")" "143  error: stopped by a signal: nothing was written"
rm "$dir/big.txt"
{ "$tools/prepare" "$dir/text.txt" --out "$dir/o/x"; echo $? >"$dir/rc"; } | true
same "prepare: nobody reads what it prints" "$(cat "$dir/rc") $(ls "$dir/o" | tr '\n' ' ')" "0 x.tok x_train.bin x_val.bin "

# ---- what prepare refuses
mkdir -p "$dir/data" && seq 1000 >"$dir/data/rwkv_vocab_v20230424.txt"
fails 1 "remove it to fetch that" env -C "$dir" sh "$PWD/data_prep/download.sh" world

# ---- killed and resumed = undisturbed, to the byte
"${train[@]}" --steps 60 --out "$dir/killed" --save-every 7 --log "$dir/killed.jsonl" >/dev/null 2>&1 & pid=$!
until [ -d "$dir/killed/step_00000014" ] || ! kill -0 $pid 2>/dev/null; do sleep 0.005; done
kill -9 $pid 2>/dev/null; wait $pid 2>/dev/null
"${train[@]}" --steps 60 --out "$dir/killed" --save-every 7 --log "$dir/killed.jsonl" --resume >/dev/null 2>&1 & pid=$!
until ls "$dir"/killed/.tmp_step_* >/dev/null 2>&1 || [ -d "$dir/killed/step_00000035" ] || ! kill -0 $pid 2>/dev/null; do :; done  # in the middle of a write, if it can be caught
kill -9 $pid 2>/dev/null; wait $pid 2>/dev/null
"${train[@]}" --steps 60 --out "$dir/killed" --save-every 7 --log "$dir/killed.jsonl" --resume >"$dir/out" 2>&1
if cmp -s "$dir/run/step_00000060/model.safetensors" "$dir/killed/step_00000060/model.safetensors"; then ok "killed twice with -9 and resumed: the same weights to the byte"; else bad "resumed weights differ" "$(tail -2 "$dir/out")"; fi
strip() { sed -E 's/"(ms|tok_per_s)":[^,}]*//g; 1d' "$1"; }
diff <(strip "$dir/run.jsonl") <(strip "$dir/killed.jsonl") >/dev/null && ok "its log is that of the undisturbed run" || bad "logs differ" "$(diff <(strip "$dir/run.jsonl") <(strip "$dir/killed.jsonl") | head -3)"
"${train[@]}" --steps 1000000 --out "$dir/term" --log "$dir/term.jsonl" >"$dir/out" 2>&1 & pid=$!
until grep -q '"step":5,' "$dir/term.jsonl" 2>/dev/null || ! kill -0 $pid 2>/dev/null; do sleep 0.01; done
kill -TERM $pid; wait $pid; rc=$?
[ $rc -eq 0 ] && ls "$dir/term" | grep -q step_ && ok "SIGTERM saves and exits with 0" || bad "SIGTERM: exit code $rc"
mkdir "$dir/bare" && cp -r "$dir/run/step_00000056" "$dir/bare/"
"$bin/train_rwkv" --out "$dir/bare" --resume >"$dir/out" 2>&1
cmp -s "$dir/run/step_00000060/model.safetensors" "$dir/bare/step_00000060/model.safetensors" && ok "--resume and --out are enough: the other options are those of the run" || bad "a bare --resume" "$(tail -2 "$dir/out")"
grep -q 'validation loss' "$dir/out" && ok "it validates as the run did" || bad "a bare --resume does not validate" "$(tail -2 "$dir/out")"
mkdir "$dir/moved" && cp "$dir/t_train.bin" "$dir/moved/" && cp -r "$dir/run" "$dir/moved/run" && rm -r "$dir/moved/run/step_00000060"
"$bin/train_rwkv" --out "$dir/moved/run" --resume --train "$dir/moved/t_train.bin" --val "" --prompt $'caf\xe9' >"$dir/out" 2>&1
grep -q -- '--- sample' "$dir/out" && ! grep -q 'validation loss' "$dir/out" && [ "$(grep -c '^warning' "$dir/out")" = 1 ] && ok "it samples with the tokenizer that the run kept; --val '' validates no more; only --train is a warning" || bad "a run without its tokenizer" "$(tail -2 "$dir/out")"
"$bin/train_rwkv" --out "$dir/moved/run" --resume --steps 61 >"$dir/out" 2>&1
grep -q 'step_00000060, step 60' "$dir/out" && ok "a prompt that is not UTF-8 leaves the checkpoint readable" || bad "after a prompt that is not UTF-8" "$(tail -2 "$dir/out")"
"$bin/train_rwkv" --out "$dir/bare" --resume --lr 0.0007 >"$dir/out" 2>&1
says "a run that is at its end says so" "$(cat "$dir/out")" "nothing left to do"
says "an option that differs from the run's is named" "$(cat "$dir/out")" "--lr is 0.0007, but this run was started with"
"${train[@]}" --steps 1000000 --out "$dir/lock" --log "$dir/lock.jsonl" >/dev/null 2>&1 & pid=$!
until grep -q '"step":2,' "$dir/lock.jsonl" 2>/dev/null || ! kill -0 $pid 2>/dev/null; do sleep 0.01; done
fails 1 "another run is writing" "${train[@]}" --steps 5 --out "$dir/lock"
hup=HUP && ((0x$(sed -n 's/^SigIgn:[^0-9a-f]*//p' "/proc/$pid/status") & 1)) && hup=TERM  # under nohup it is to be ignored
kill -$hup $pid; wait $pid; rc=$?
[ $rc -eq 0 ] && ls "$dir/lock" | grep -q step_ && ok "a closed terminal (SIG$hup) saves, too" || bad "SIG$hup: exit code $rc"
"${train[@]}" --steps 300 --out "$dir/pipe" 2>"$dir/stderr" | head -1 >/dev/null
rc=${PIPESTATUS[0]}
[ "$rc" -eq 0 ] && [ -d "$dir/pipe/step_00000300" ] && [ ! -s "$dir/stderr" ] && ok "who reads along may leave: the run goes on" || bad "| head -1: exit code $rc" "$(cat "$dir/stderr")"
printf x | dd of="$dir/run/step_00000060/model.safetensors" bs=1 seek=9000 conv=notrunc 2>/dev/null
"${train[@]}" --steps 61 --out "$dir/run" --resume >"$dir/out" 2>&1
grep -q 'step_00000056, step 56' "$dir/out" && ok "a damaged checkpoint is named and the one before it used" || bad "a damaged checkpoint" "$(tail -2 "$dir/out")"

# ---- the same numbers another way
losses() { grep -o '"loss":[0-9.]*' "$1" | cut -d: -f2; }
close() { paste <(losses "$1") <(losses "$2") | awk -v t="$3" '{ d = $1 - $2; if (d < 0) d = -d; if (!(d <= t)) exit 1 } END { exit NR < 5 }'; }
"${train[@]}" --steps 8 --batch 4 --log "$dir/whole.jsonl" >/dev/null 2>&1
"${train[@]}" --steps 8 --batch 2 --accum 2 --log "$dir/accum.jsonl" >/dev/null 2>&1
close "$dir/whole.jsonl" "$dir/accum.jsonl" 2e-5 && ok "--batch 2 --accum 2 = --batch 4" || bad "accumulation changes the losses"
"${train[@]}" --steps 8 --batch 4 --chunk 9 --log "$dir/chunk.jsonl" >/dev/null 2>&1
close "$dir/whole.jsonl" "$dir/chunk.jsonl" 2e-5 && ok "--chunk 9 with full gradients = the whole sequence" || bad "chunks change the losses"
"${train[@]}" --steps 8 --batch 4 --chunk 9 --bptt truncated --log "$dir/truncated.jsonl" >/dev/null 2>&1
close "$dir/whole.jsonl" "$dir/truncated.jsonl" 0.05 && ! close "$dir/whole.jsonl" "$dir/truncated.jsonl" 1e-6 && ok "--bptt truncated is near it, not equal" || bad "truncated gradients"
"${train[@]}" --steps 8 --batch 4 --recompute 2 --log "$dir/recompute.jsonl" >/dev/null 2>&1
close "$dir/whole.jsonl" "$dir/recompute.jsonl" 0 && ok "--recompute 2: the same losses" || bad "recompute changes the losses"
"${train[@]}" --steps 3 --load "$dir/killed" --log "$dir/load.jsonl" >"$dir/out" 2>&1 && awk -v l="$(losses "$dir/load.jsonl" | head -1)" -v b="$last" 'BEGIN { exit !(l < b + 0.5) }' && ok "--load goes on from a run's weights" || bad "--load" "$(tail -1 "$dir/out")"

CUDA_CPU_SMS=132 "$bin/train_rwkv" --train "$dir/t_train.bin" --layers 1 --dim 16 --batch 16 --ctx 1552 --chunk 1024 --steps 1 --sample-tokens 0 >"$dir/out" 2>&1
says "a last chunk that is shorter, on a device with many multiprocessors" "$?" 0

# ---- the other trainers: they learn, and resumed = undisturbed
declare -A own=([rwkv7]="--head-size 16" [gpt2]="--heads 2 --dropout 0.1")
for model in rwkv7 gpt2; do
    # shellcheck disable=SC2206  # words
    run=("$bin/train_$model" "${train[@]:1}" ${own[$model]} --steps 30 --save-every 15)
    if "${run[@]}" --out "$dir/$model" --log "$dir/$model.jsonl" >"$dir/out" 2>&1; then ok "train_$model trains, evaluates, samples and saves"; else bad "train_$model" "$(tail -3 "$dir/out")"; fi
    awk -v a="$(losses "$dir/$model.jsonl" | head -1)" -v b="$(losses "$dir/$model.jsonl" | tail -1)" 'BEGIN { exit !(a > 5.3 && a < 5.8 && b < a - 1) }' && ok "its loss falls from ln 256" || bad "the loss of train_$model: $(losses "$dir/$model.jsonl" | sed -n '1p;$p' | tr '\n' ' ')"
    mkdir -p "$dir/$model.half" && cp -r "$dir/$model/step_00000015" "$dir/$model.half/"
    "${run[@]}" --out "$dir/$model.half" --resume >"$dir/out" 2>&1
    if cmp -s "$dir/$model/step_00000030/model.safetensors" "$dir/$model.half/step_00000030/model.safetensors"; then ok "resumed, it ends with the same weights to the byte"; else bad "train_$model: resumed weights differ" "$(tail -1 "$dir/out")"; fi
done
fails 1 "GPT-2" "$bin/train_rwkv" --train "$dir/t_train.bin" --load "$dir/gpt2" --steps 2
fails 1 "RWKV-4" "$bin/train_rwkv7" --train "$dir/t_train.bin" --load "$dir/killed" --steps 2
fails 1 "RWKV-7" "$bin/train_gpt2" --train "$dir/t_train.bin" --load "$dir/rwkv7" --steps 2
fails 1 "leave the option away" "$bin/train_gpt2" --train "$dir/t_train.bin" --load "$dir/gpt2" --activation relu --steps 2

# ---- tuning: the weights stay, the loss falls, resumed = undisturbed
for tune in lora state; do
    lr=2e-2 && [ $tune = lora ] || lr=0.1  # a state takes large steps
    run=("$bin/train_rwkv7" --train "$dir/t_train.bin" --ctx 32 --tune $tune --load "$dir/rwkv7" --steps 12 --save-every 6 --prompt "The " --temperature 0 --sample-tokens 40)
    if "${run[@]}" --lr $lr --out "$dir/$tune" --log "$dir/$tune.jsonl" >"$dir/out" 2>&1; then ok "--tune $tune trains"; else bad "--tune $tune" "$(tail -1 "$dir/out")"; fi
    "${run[@]}" --lr 0 --lr-final 0 --log "$dir/$tune.0.jsonl" >/dev/null 2>&1  # the same batches
    paste <(losses "$dir/$tune.jsonl") <(losses "$dir/$tune.0.jsonl") | tail -6 | awk '{ d += $2 - $1 } END { exit !(d > 0) }' && ok "its losses are lower than the untuned model's" || bad "--tune $tune lowers no loss"
    mkdir -p "$dir/$tune.half" && cp -r "$dir/$tune/step_00000006" "$dir/$tune.half/"
    "${run[@]}" --lr $lr --out "$dir/$tune.half" --resume >"$dir/out" 2>&1
    if cmp -s "$dir/$tune/step_00000012/model.safetensors" "$dir/$tune.half/step_00000012/model.safetensors"; then ok "resumed, it ends with the same bytes"; else bad "--tune $tune: resumed differs" "$(tail -1 "$dir/out")"; fi
done
"$bin/train_rwkv7" --train "$dir/t_train.bin" --ctx 32 --load "$dir/lora" --steps 1 --log "$dir/merged.jsonl" --sample-tokens 0 >/dev/null 2>&1
awk -v a="$(losses "$dir/merged.jsonl" | head -1)" -v b="$(losses "$dir/lora.jsonl" | head -1)" 'BEGIN { exit !(a < b) }' && ok "the merged checkpoint of LoRA is an ordinary model, and better" || bad "the merged checkpoint of LoRA"
written() { "$bin/run_rwkv" generate --model "$dir/rwkv7" --tokenizer "$dir/t.tok" --prompt "The " --temperature 0 --tokens 40 "$@" 2>/dev/null; }
sample=$(tail -1 "$dir/state.jsonl") && says "run_rwkv writes with a tuned state what the trainer wrote" "$sample" "$(written --state-in "$dir/state/step_00000012/model.safetensors")"
[[ $sample != *"$(written)"* ]] && ok "which is not what it writes without" || bad "the tuned state changes nothing: $sample"
fails 2 "needs --load" "$bin/train_rwkv7" --train "$dir/t_train.bin" --tune lora --steps 2
fails 2 "for RWKV-7" "${train[@]}" --load "$dir/killed" --tune state --steps 2

# ---- bad input: one sentence each
t=("$bin/train_rwkv" --train "$dir/t_train.bin" --steps 2)
fails 2 "--train is missing" "$bin/train_rwkv"
fails 2 "no option --bach" "${t[@]}" --bach 3
fails 2 "--batch is 0" "${t[@]}" --batch 0
fails 2 "--lr takes a number" "${t[@]}" --lr fast
fails 2 "--schedule is 'sine'" "${t[@]}" --schedule sine
fails 2 "--warmup is 5" "${t[@]}" --warmup 5
fails 2 "--out needs a value" "${t[@]}" --out --resume
fails 2 "more than 2^31" "${t[@]}" --ctx 1000000 --batch 3000
fails 1 "cannot list /dev/null/x" "${t[@]}" --out /dev/null/x
fails 1 "cannot create the directory" "${t[@]}" --out /proc/x
echo "my notes" >"$dir/notes.txt"
fails 1 "is not the log of a run" "$bin/train_rwkv" --out "$dir/bare" --resume --log "$dir/notes.txt"
mkdir "$dir/damaged" && cp -r "$dir/killed/step_00000056" "$dir/damaged/" && truncate -s 1000 "$dir"/damaged/*/model.safetensors
fails 1 "are damaged" "${t[@]}" --out "$dir/damaged" --resume
fails 1 "already holds a run" "${t[@]}" --out "$dir/damaged"
fails 1 "File too large" bash -c 'ulimit -f 20 && exec "$@"' bash "${train[@]}" --steps 2 --out "$dir/small"
"$bin/train_rwkv" --train "$dir/t_train.bin" --lr 1e-6 --steps 4 --log "$dir/low.jsonl" >/dev/null 2>&1
grep -o '"lr":[0-9.e-]*' "$dir/low.jsonl" | cut -d: -f2 | awk '$1 > 1e-6 { exit 1 }' && ok "the learning rate never rises above --lr" || bad "the learning rate rises above --lr" "$(cat "$dir/low.jsonl")"
fails 2 "--resume needs --out" "${t[@]}" --resume
fails 2 "is given twice" "${t[@]}" --lr 1 --lr 2
fails 2 "--doc-reset needs" "${t[@]}" --doc-reset
fails 1 "no_such.bin" "$bin/train_rwkv" --train "$dir/no_such.bin"
fails 1 "lower --ctx" "${t[@]}" --ctx 1000000
fails 1 "already holds a run" "${t[@]}" --out "$dir/term"
fails 1 "leave the option away" "${t[@]}" --load "$dir/killed" --dim 64
fails 1 "no_such.pth" "${t[@]}" --load "$dir/no_such.pth"
echo '<!DOCTYPE html>' >"$dir/page.pth"
fails 1 "page.pth" "${t[@]}" --load "$dir/page.pth"
mkfifo "$dir/pipe.pth"
fails 1 "pipe.pth: it is not a plain file" "${t[@]}" --load "$dir/pipe.pth"
head -c 5000 "$dir/killed/step_00000060/model.safetensors" >"$dir/cut.safetensors"
fails 1 "cut.safetensors" "${t[@]}" --load "$dir/cut.safetensors"
cp "$dir/killed/step_00000060/model.safetensors" "$dir/nan.safetensors"
printf '\x00\x00\xc0\x7f' | dd of="$dir/nan.safetensors" bs=1 seek=$(($(stat -c %s "$dir/nan.safetensors") - 4)) conv=notrunc 2>/dev/null
fails 1 "head.weight is not finite" "${t[@]}" --load "$dir/nan.safetensors" --out "$dir/nan"
"$bin/run_rwkv" convert --model "$dir/killed" --out "$dir/int8.safetensors" --dtype int8 >/dev/null 2>&1
fails 1 "is int8" "${t[@]}" --load "$dir/int8.safetensors"
printf '\xff\xff\x7f\x7f' | dd of="$dir/nan.safetensors" bs=1 seek=$(($(stat -c %s "$dir/nan.safetensors") - 4)) conv=notrunc 2>/dev/null  # the largest number
fails 1 "nothing was overwritten" "${t[@]}" --load "$dir/nan.safetensors" --out "$dir/nan"
ls "$dir/nan" | grep -q step_ && bad "a run that hit NaN saved something" || ok "a run that hits NaN saves nothing"
fails 1 "device memory" "${t[@]}" --layers 900 --dim 16384
"$tools/prepare" "$dir/text.txt" --tokenizer char --out "$dir/c" >/dev/null
fails 1 "another tokenizer" "$bin/train_rwkv" --train "$dir/c_train.bin" --val "$dir/t_val.bin" --steps 2
fails 1 "another tokenizer" "$bin/train_rwkv" --train "$dir/c_train.bin" --load "$dir/killed" --steps 2
printf 'GIF89a' >"$dir/x.bin"
fails 1 "x.bin" "$bin/train_rwkv" --train "$dir/x.bin"

# ---- --help and the parser come from one table
"$bin/train_rwkv" --help >"$dir/help"
for o in train val out load resume layers dim ffn ctx batch accum steps lr lr-final warmup schedule beta1 beta2 eps weight-decay clip seed eval-every \
         eval-batches sample-every sample-tokens prompt save-every keep recompute bptt log help; do
    grep -qE "^  --$o( |$)" "$dir/help" || bad "--help does not list --$o"
done && ok "--help lists every option"
[ "$(wc -L <"$dir/help")" -le 140 ] && ok "--help fits a screen" || bad "--help has long lines"

# ---- the build's own diagnoses, with nvccs that are not there, too old, or newer than the GPU
flags() { PATH="$dir/fake:$PATH" dev/gpu_flags.sh "$@" 2>&1; }
mkdir -p "$dir/fake"
fake_nvcc() { printf '#!/bin/sh\ncase $1 in --version) echo "Cuda compilation tools, release %s, V";; --list-gpu-arch) printf "compute_%%s\\n" %s;; esac\n' "$1" "$2" >"$dir/fake/nvcc"; chmod +x "$dir/fake/nvcc"; }
fake_gpu() { printf '#!/bin/sh\n%s\n' "$1" >"$dir/fake/nvidia-smi"; chmod +x "$dir/fake/nvidia-smi"; }
fake_gpu 'echo "No devices were found"; exit 6'
fake_nvcc 11.8 "75 80 86 89 90"
says "build: no GPU visible: all architectures, never the probe's own words" "$(flags nvcc bf16 "")" " -gencode arch=compute_80,code=sm_80 -gencode arch=compute_86,code=sm_86 -gencode arch=compute_89,code=sm_89 -gencode arch=compute_90,code=sm_90 -gencode arch=compute_90,code=compute_90"
says "build: no nvcc" "$(flags no-such-nvcc bf16 "")" "no-such-nvcc was not found"
says "build: unknown architecture" "$(flags nvcc fp16 42)" "GPU_ARCH=42 is not known"
says "build: bf16 on sm_75" "$(flags nvcc bf16 75)" "make PRECISION=fp16"
fake_gpu 'echo 12.0'
says "build: a GPU newer than the toolkit" "$(flags nvcc bf16 "")" "the GPU in this machine is sm_120, but"
fake_nvcc 11.2 "75 80"
says "build: a toolkit that is too old" "$(flags nvcc bf16 "")" "11.8 is the oldest"
fake_gpu 'echo 9.0'; fake_nvcc 13.0 "75 80 90"
says "build: the GPU that is there" "$(flags nvcc bf16 "")" " -gencode arch=compute_90,code=sm_90"

finish
