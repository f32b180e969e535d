#!/bin/bash
# run_cli.sh: run_rwkv as a user meets it: a model of train_rwkv is run, converted, measured; what is wrong is said.
. "${0%/*}/shell.sh"
run=$bin/run_rwkv

# ---- a model of our own
"$tools/stories" --bytes 200000 --seed 3 --out "$dir/text.txt"
"$tools/stories" --bytes 6000 --seed 4 --out "$dir/new.txt"
"$tools/prepare" "$dir/text.txt" --tokenizer char --out "$dir/t" >/dev/null
"$bin/train_rwkv" --train "$dir/t_train.bin" --layers 2 --dim 64 --ctx 64 --batch 8 --lr 5e-3 --steps 320 --sample-tokens 0 --out "$dir/run" >"$dir/err" 2>&1 || bad "training" "$(tail -1 "$dir/err")"
model=$(ls "$dir"/run/step_*/model.safetensors)
m=(--model "$dir/run")
gen() { "$run" generate "$@" 2>"$dir/err"; }

# ---- generate
prompt="Once upon a time there was"
text=$(gen "${m[@]}" --prompt "$prompt" --tokens 60 --temperature 0)
says "generate finds model and tokenizer in the folder of a run, and begins with the prompt" "$text" "$prompt"
same "the same from the file, and from standard input" "$text$text" "$(gen --model "$model" --tokenizer "$dir/t.tok" --prompt "$prompt" --tokens 60 --temperature 0)$(printf %s "$prompt" | gen "${m[@]}" --prompt-file - --tokens 60 --temperature 0)"
says "it says how fast it was" "$(cat "$dir/err")" "tokens/s"
new=$(gen "${m[@]}" --prompt "$prompt" --tokens 60 --temperature 0 --no-prompt)
same "--no-prompt" "$text" "$prompt$new"
[ "${#new}" -le 60 ] && [ "${#new}" -ge 58 ] && ok "--tokens 60 are 60 characters of a char model" || bad "--tokens 60 gave ${#new}"
a=$(gen "${m[@]}" --prompt "$prompt" --tokens 80 --seed 5) b=$(gen "${m[@]}" --prompt "$prompt" --tokens 80 --seed 5) c=$(gen "${m[@]}" --prompt "$prompt" --tokens 80 --seed 6)
same "the same seed, the same text" "$a" "$b"
[ "$a" != "$c" ] && ok "another seed, another text" || bad "another seed, the same text"
same "--top-p 0 and --top-k 1 are --temperature 0" "$text$text" "$(gen "${m[@]}" --prompt "$prompt" --tokens 60 --top-p 0)$(gen "${m[@]}" --prompt "$prompt" --tokens 60 --top-k 1)"
for o in "--top-p 1" "--top-a 0.02" "--min-p 0.1" "--presence 0.5 --frequency 0.5 --decay 0.9" "--temperature 1.5" "--int8" "--chunk 3"; do
    t=$(gen "${m[@]}" --prompt "$prompt" --tokens 20 $o) && [ "${#t}" -gt "${#prompt}" ] || bad "$o" "$(tail -1 "$dir/err")"
done && ok "every option of sampling runs"
stop=${new:20:3}
same "--stop ends before itself" "${new%%"$stop"*}" "$(gen "${m[@]}" --prompt "$prompt" --tokens 60 --temperature 0 --no-prompt --stop "$stop")"
gen "${m[@]}" --prompt "" --tokens 5 >"$dir/out" && ok "an empty prompt is no error" || bad "an empty prompt" "$(tail -1 "$dir/err")"
gen "${m[@]}" --prompt "Once" --tokens 0 >"$dir/out" && ok "--tokens 0 is no error" || bad "--tokens 0" "$(tail -1 "$dir/err")"

# ---- states
gen "${m[@]}" --prompt "Once upon a ti" --tokens 0 --state-out "$dir/s" >/dev/null
same "a saved state goes on as if nothing had been" "$new" "$(gen "${m[@]}" --state-in "$dir/s" --prompt "me there was" --tokens 60 --temperature 0 --no-prompt)"
gen "${m[@]}" --state-in "$dir/s" --prompt " zebra" --tokens 9 --state-out "$dir/s2" >/dev/null
same "a branch leaves it as it was" "$new" "$(gen "${m[@]}" --state-in "$dir/s" --prompt "me there was" --tokens 60 --temperature 0 --no-prompt)"

# ---- many prompts
printf 'Once upon a time there was\nThe dog\n"A \\"cat\\"\\n"\nOne day\n' >"$dir/prompts"
gen "${m[@]}" --batch "$dir/prompts" --batch-size 3 --tokens 40 --temperature 0 >"$dir/batch"
[ "$(wc -l <"$dir/batch")" -eq 4 ] && ok "--batch: a line for each prompt, in their order" || bad "--batch" "$(tail -1 "$dir/err")"
single=$(gen "${m[@]}" --prompt "One day" --tokens 40 --temperature 0 --no-prompt)
says "--batch: the text of a prompt alone" "$(sed -n 4p "$dir/batch" | sed 's/\\n/\n/g; s/\\"/"/g')" "$single"
"$run" generate "${m[@]}" --prompt "$prompt" --tokens 100000000 >"$dir/out" 2>"$dir/err" & pid=$!
until [ -s "$dir/out" ] || ! kill -0 $pid 2>/dev/null; do sleep 0.02; done
sleep 0.2; kill -INT $pid; wait $pid; rc=$?
[ $rc -eq 130 ] && grep -q tokens/s "$dir/err" && ok "Ctrl-C ends a text, exit code 130" || bad "Ctrl-C: exit code $rc"

# ---- logits
seq 1 30 | tr '\n' ' ' >"$dir/ids"
"$run" logits "${m[@]}" --ids "$dir/ids" --out "$dir/gpt.bin" 2>/dev/null
"$run" logits "${m[@]}" --ids "$dir/ids" --out "$dir/chunk.bin" --chunk 7 2>/dev/null
"$run" logits "${m[@]}" --ids "$dir/ids" --out "$dir/rnn.bin" --mode rnn 2>/dev/null
V=$("$run" info "${m[@]}" | sed -n 's/.* V\([0-9]*\).*/\1/p;T;q')
[ "$(stat -c %s "$dir/gpt.bin")" -eq $((30 * V * 4)) ] && cmp -s "$dir/gpt.bin" "$dir/chunk.bin" && ok "logits: 30 x V float32, the same in chunks of 7" || bad "logits"
numbers() { od -An -v -w4 -f "$1"; }
paste <(numbers "$dir/gpt.bin") <(numbers "$dir/rnn.bin") | awk '{ d = $1 - $2; if (d < 0) d = -d; if (d > 1e-3) exit 1 } END { exit NR < 100 }' && ok "logits: GPT mode = RNN mode" || bad "GPT mode and RNN mode differ"
cut -d' ' -f1-11 "$dir/ids" >"$dir/ids1"; cut -d' ' -f12-30 "$dir/ids" >"$dir/ids2"
"$run" logits "${m[@]}" --ids "$dir/ids1" --out "$dir/1.bin" --state-out "$dir/ls" 2>/dev/null
"$run" logits "${m[@]}" --ids "$dir/ids2" --out "$dir/2.bin" --state-in "$dir/ls" 2>/dev/null
cat "$dir/1.bin" "$dir/2.bin" | cmp -s - "$dir/gpt.bin" && ok "logits: in two parts with the state between, the same bits" || bad "logits in two parts differ"

# ---- eval
bpb() { "$run" eval "$@" 2>"$dir/err" | sed -n 's/^\([0-9.]*\) bits per byte.*/\1/p'; }
whole=$(bpb "${m[@]}" --text "$dir/new.txt") small=$(bpb "${m[@]}" --text "$dir/new.txt" --int8)
awk -v a="$whole" 'BEGIN { exit !(a > 0.3 && a < 4) }' && ok "eval: $whole bits per byte of a new text" || bad "eval" "$(tail -1 "$dir/err")"
awk -v a="$whole" -v b="$small" 'BEGIN { exit !(b > 0 && b <= 1.01 * a) }' && ok "int8 costs at most 1 %: $small" || bad "int8 raises $whole bits per byte to $small"
"$run" eval "${m[@]}" --text "$dir/new.txt" --ctx 128 --positions "$dir/p.csv" --bucket 32 >/dev/null 2>"$dir/err"
same "eval --positions: the loss by position" "position,tokens,loss 0 32 64 96" "$(head -1 "$dir/p.csv") $(tail -n +2 "$dir/p.csv" | cut -d, -f1 | tr '\n' ' ' | sed 's/ $//')"
awk -F, 'NR == 2 { a = $3 } END { exit !($3 < a) }' "$dir/p.csv" && ok "later positions are easier" || bad "later positions are not easier" "$(tr '\n' ' ' <"$dir/p.csv")"
printf '{"text": "Once upon a time there was a little girl"}\n{"text": "She went to the park"}\n' >"$dir/l.jsonl"
says "eval --lambada" "$("$run" eval "${m[@]}" --lambada "$dir/l.jsonl" 2>"$dir/err")" "2 examples, accuracy"
printf '{"ind": 0, "ctx": "Once upon a", "label": 1, "endings": ["zqx zqx", "time there was", "vvvv", "qq"]}\n' >"$dir/h.jsonl"
says "eval --hellaswag picks the story" "$("$run" eval "${m[@]}" --hellaswag "$dir/h.jsonl" 2>"$dir/err")" "1 examples, acc 100.00"

# ---- embed: lines of stories and lines of a program
tr '.' '\n' <"$dir/new.txt" | grep -E '.{20}' | head -60 >"$dir/a.txt"
grep -hE '[a-z]{3}.{20}' rwkv/file.h rwkv/json.h | head -60 >"$dir/b.txt"
"$run" embed "${m[@]}" --lines "$dir/a.txt" --what hidden --out "$dir/a.npy" >/dev/null 2>"$dir/err"
n=$(wc -l <"$dir/a.txt")
[ "$(stat -c %s "$dir/a.npy")" -eq $((128 + n * 64 * 4)) ] && head -c 6 "$dir/a.npy" | grep -q NUMPY && ok "embed: a .npy of float32 [lines, C]" || bad "embed" "$(tail -1 "$dir/err")"
"$run" embed "${m[@]}" --lines "$dir/a.txt" --out "$dir/a.jsonl" --what state --layer 1 >/dev/null 2>"$dir/err"
[ "$(wc -l <"$dir/a.jsonl")" -eq "$n" ] && ok "embed: JSON lines" || bad "embed" "$(tail -1 "$dir/err")"
share=$("$run" embed "${m[@]}" --lines "$dir/a.txt" --compare "$dir/b.txt" 2>"$dir/err" | sed -n 's/^nearest centroid: \([0-9.]*\) %.*/\1/p')
awk -v s="$share" 'BEGIN { exit !(s > 90) }' && ok "embed: a nearest centroid recognises $share % of the lines" || bad "embed: nearest centroid: $share %" "$(tail -1 "$dir/err")"

# ---- convert, info, bench, chat
"$run" convert "${m[@]}" --out "$dir/x.pth" >/dev/null 2>"$dir/err" && "$run" convert --model "$dir/x.pth" --out "$dir/y.safetensors" >/dev/null && "$run" convert --model "$dir/y.safetensors" --out "$dir/z.pth" >/dev/null
cmp -s "$dir/x.pth" "$dir/z.pth" && ok "convert: .pth -> .safetensors -> .pth is the same file" || bad "convert" "$(tail -1 "$dir/err")"
same "the converted files give the same text" "$text$text" "$(gen --model "$dir/x.pth" --tokenizer "$dir/t.tok" --prompt "$prompt" --tokens 60 --temperature 0)$(gen --model "$dir/y.safetensors" --tokenizer "$dir/t.tok" --prompt "$prompt" --tokens 60 --temperature 0)"
"$run" convert "${m[@]}" --out "$dir/q.safetensors" --dtype int8 >/dev/null
same "an int8 file is --int8, and half the size of 16 bits" "$small" "$(bpb --model "$dir/q.safetensors" --tokenizer "$dir/t.tok" --text "$dir/new.txt")"
same "its model takes the states of the original" 0 "$(gen --model "$dir/q.safetensors" --tokenizer "$dir/t.tok" --state-in "$dir/s" --prompt "me" --tokens 3 >/dev/null; echo $?)"
says "info" "$("$run" info "${m[@]}" --half-lives "$dir/h.csv")" "RWKV-4 L2 C64"
"$run" info "${m[@]}" >/dev/full 2>"$dir/err"; rc=$?
same "a full disk behind standard output is an error" "$rc $(cut -c1-15 "$dir/err")" "1 error: standard"
[ "$(wc -l <"$dir/h.csv")" -eq 129 ] && ok "info --half-lives: a row for each layer and channel" || bad "half-lives: $(wc -l <"$dir/h.csv") rows"
says "bench" "$("$run" bench "${m[@]}" --prefill 16 --batch 1,2 --positions 8 --tokens 4 --repeat 1 --json "$dir/bench.json" 2>"$dir/err")" "decode"
answer=$(printf 'Hello\n/undo\n/save %s\n/nonsense\n/quit\n' "$dir/chat" | timeout 60 "$run" chat "${m[@]}" --tokens 20 2>"$dir/err")
[ $? -eq 0 ] && [ -s "$dir/chat" ] && ok "chat answers, takes back, saves and leaves" || bad "chat" "$answer"
says "chat saves a conversation where it was loaded from" "$(printf '/load %s\nHello\n/save %s\n' "$dir/chat" "$dir/chat" | "$run" chat "${m[@]}" --tokens 5 2>"$dir/err")" "The conversation is in $dir/chat."

# ---- published models and constructed ones, where ../shared is
if [ -d ../shared/oracle ]; then
    o=../shared/oracle
    od -An -v -tu4 -w4 $o/ref/tokens.text64.u32.bin >"$dir/t64"
    for f in tiny-rwkv-4v0-660K.fp32.pth stress-7v0.bf16.pth; do
        "$run" logits --model $o/$f --ids "$dir/t64" --out "$dir/o.bin" 2>"$dir/err"
        paste <(numbers "$dir/o.bin") <(numbers "$o/ref/${f%.pth}.text64.logits.f32.bin") | awk '{ d = $1 - $2; if (d < 0) d = -d; if (!(d <= 1e-4)) exit 1 } END { exit NR != 64 * 256 }' && ok "../shared/oracle/$f: logits within 1e-4" || bad "$f" "$(tail -1 "$dir/err")"
    done
else echo "skip  no ../shared/oracle"; fi

# ---- what is wrong is said in one sentence
"$run" >"$dir/out" 2>"$dir/err"
same "without a command: the list of them on stderr, exit code 2" "2 0 1" "$? $(wc -c <"$dir/out") $(grep -c 'run_rwkv generate' "$dir/err")"
chat() { fails 1 "$1" bash -c "printf '$2' | $run chat --model $dir/run --tokens 5"; }  # WORDS LINES: of a script
chat "the message is not UTF-8" 'Hello\ncaf\xe9\nHello\n'
chat "none.state" "/load $dir/none.state\nHello\n"
chat "/save needs the name of a file" '/save\n'
fails 2 "'sing' is not a command" "$run" sing
fails 2 "no option --promt" "$run" generate "${m[@]}" --promt x
fails 2 "--model is missing" "$run" generate --prompt x
fails 2 "--top-p is 2" "$run" generate "${m[@]}" --top-p 2
fails 2 "exclude each other" "$run" generate "${m[@]}" --prompt a --prompt-file b
fails 1 "none.pth" "$run" generate --model "$dir/none.pth"
fails 1 "UTF-8" "$run" generate "${m[@]}" --prompt $'caf\xe9'
printf 'Once\ncaf\xe9\n' >"$dir/latin1"
fails 1 "prompt 2 of --batch is not UTF-8" "$run" generate "${m[@]}" --batch "$dir/latin1" --batch-size 1 --tokens 1000000000
fails 1 "none.txt" "$run" generate "${m[@]}" --prompt-file "$dir/none.txt"
mkdir -p "$dir/far/away" && cp "$dir/x.pth" "$dir/far/away"
fails 1 "no tokenizer was found" "$run" generate --model "$dir/far/away/x.pth" --prompt x
"$tools/prepare" "$dir/text.txt" --tokenizer byte --out "$dir/byte" >/dev/null
fails 1 "byte.tok" "$run" generate "${m[@]}" --tokenizer "$dir/byte.tok" --prompt x
"$bin/train_rwkv" --train "$dir/t_train.bin" --layers 2 --dim 64 --ctx 32 --steps 1 --sample-tokens 0 --out "$dir/other" >/dev/null 2>&1
fails 1 "another model" "$run" generate --model "$dir/other" --state-in "$dir/s" --prompt x
fails 1 "none.state" "$run" generate "${m[@]}" --state-in "$dir/none.state" --prompt x
echo '1 2 99999' >"$dir/bad.ids"; echo '1 two' >"$dir/words.ids"
fails 1 "id 2 is 99999" "$run" logits "${m[@]}" --ids "$dir/bad.ids" --out "$dir/n.bin"
fails 1 "not a whole number" "$run" logits "${m[@]}" --ids "$dir/words.ids" --out "$dir/n.bin"
fails 2 "pass one of --text, --lambada and --hellaswag" "$run" eval "${m[@]}"
for o in prefill batch positions; do fails 2 "--$o is '', but must be numbers" "$run" bench "${m[@]}" --$o ""; done
fails 2 "--bucket needs --positions" "$run" eval "${m[@]}" --text "$dir/new.txt" --bucket 3
echo '{"text": 1}' >"$dir/l2.jsonl"
fails 1 "l2.jsonl, line 1" "$run" eval "${m[@]}" --lambada "$dir/l2.jsonl"
echo '{"ctx": "a", "label": "zwei", "endings": ["b", "c"]}' >"$dir/h2.jsonl"; : >"$dir/empty.txt"; printf 'one\n\nthree\n' >"$dir/blank.txt"
fails 1 "h2.jsonl, line 1" "$run" eval "${m[@]}" --hellaswag "$dir/h2.jsonl"
fails 1 "empty.txt has 0 tokens" "$run" eval "${m[@]}" --text "$dir/empty.txt"
fails 1 "blank.txt, line 2" "$run" embed "${m[@]}" --lines "$dir/blank.txt" --out "$dir/n.npy"
fails 1 "blank.txt, line 2" "$run" embed "${m[@]}" --lines "$dir/a.txt" --compare "$dir/blank.txt"
fails 2 "must end in .npy or .jsonl" "$run" embed "${m[@]}" --lines "$dir/a.txt" --out "$dir/a.txt"
fails 2 "--layer is 7" "$run" embed "${m[@]}" --lines "$dir/a.txt" --out "$dir/n.npy" --layer 7
before=$(sha256sum <"$dir/y.safetensors")
fails 1 "exists already" "$run" convert --model "$dir/y.safetensors" --out "$dir/y.safetensors" --dtype bf16
same "and nothing was overwritten" "$before" "$(sha256sum <"$dir/y.safetensors")"
fails 2 "must end in" "$run" convert "${m[@]}" --out "$dir/n.bin"
fails 1 "File too large" bash -c "trap '' XFSZ; ulimit -f 20; exec $run convert --model $dir/run --out $dir/full.pth"
[ ! -e "$dir/full.pth" ] && [ ! -e "$dir/full.pth.tmp" ] && ok "a full disk leaves no half file" || bad "a full disk left something"
echo '<!DOCTYPE html>' >"$dir/page.pth"; : >"$dir/empty.pth"; printf 'GGUF\3\0\0\0' >"$dir/m.gguf"
fails 1 "web page" "$run" info --model "$dir/page.pth"
fails 1 "empty" "$run" generate --model "$dir/empty.pth" --prompt x
fails 1 "GGUF" "$run" generate --model "$dir/m.gguf" --prompt x
head -c 30000 "$model" >"$dir/cut.safetensors"
fails 1 "cut short" "$run" generate --model "$dir/cut.safetensors" --prompt x

# ---- outputs: no input is overwritten, and what cannot be written is said before the model is loaded
cp "$dir/x.pth" "$dir/m.pth"; cp "$dir/a.jsonl" "$dir/in.jsonl"; cp "$dir/t.tok" "$dir/m.tok"; ln -s m.pth "$dir/link"
mm=(--model "$dir/m.pth" --tokenizer "$dir/m.tok") read_files=("$dir"/{m.pth,m.tok,new.txt,prompts,ids,in.jsonl,s})
before=$(sha256sum "${read_files[@]}")
fails 1 "--state-out and --model" "$run" generate "${mm[@]}" --prompt x --state-out "$dir/m.pth"
fails 1 "--state-out and --model" "$run" generate "${mm[@]}" --prompt x --state-out "$dir/far/../link"
fails 1 "--state-out and --model" "$run" generate --model "$dir/run" --prompt x --state-out "$model"
fails 1 "--state-out and --tokenizer" "$run" generate "${mm[@]}" --prompt x --state-out "$dir/m.tok"
fails 1 "--state-out and --prompt-file" "$run" generate "${mm[@]}" --prompt-file "$dir/prompts" --state-out "$dir/prompts"
fails 1 "is no state of run_rwkv" "$run" generate "${m[@]}" --prompt x --state-out "$dir/m.pth"
chat "is no state of run_rwkv" "/save $dir/m.pth\n"
fails 1 "--state-out and --model" "$run" chat "${mm[@]}" --state-out "$dir/m.pth"
fails 1 "--json and --model" "$run" bench "${mm[@]}" --json "$dir/m.pth"
fails 1 "--positions and --text" "$run" eval "${mm[@]}" --text "$dir/new.txt" --positions "$dir/new.txt"
fails 1 "--out and --lines" "$run" embed "${mm[@]}" --lines "$dir/in.jsonl" --out "$dir/in.jsonl"
fails 1 "--out and --ids" "$run" logits "${mm[@]}" --ids "$dir/ids" --out "$dir/ids"
fails 1 "--out and --state-in" "$run" logits "${mm[@]}" --ids "$dir/ids" --state-in "$dir/s" --out "$dir/s"
fails 1 "--state-out and --out" "$run" logits "${mm[@]}" --ids "$dir/ids" --out "$dir/n" --state-out "$dir/./n"
fails 1 "--half-lives and --model" "$run" info --model "$dir/m.pth" --half-lives "$dir/m.pth"
same "and no input was overwritten" "$before" "$(sha256sum "${read_files[@]}")"
cp "$dir/s" "$dir/s3" && gen "${m[@]}" --state-in "$dir/s3" --prompt "me" --tokens 3 --state-out "$dir/s3" >/dev/null
same "but a state by the state that came of it" "0 1" "$? $(cmp -s "$dir/s" "$dir/s3"; echo $?)"
for o in "generate --prompt x --state-out" "chat --state-out" "bench --json" "eval --text $dir/new.txt --positions" "embed --lines $dir/a.txt --out" "logits --ids $dir/ids --out" "logits --ids $dir/ids --out $dir/n --state-out"; do
    read -ra words <<<"$o"
    fails 1 "$dir/no/x.npy cannot be written" "$run" "${words[@]}" "$dir/no/x.npy" --model "$dir/none.pth"
done
mkdir "$dir/folder.npy"
fails 1 "something that is not a file" "$run" embed --model "$dir/none.pth" --lines "$dir/a.txt" --out "$dir/folder.npy"
fails 1 "no/x.pth cannot be written" "$run" convert --model "$dir/none.pth" --out "$dir/no/x.pth"

# ---- help
for c in generate chat logits eval embed convert info bench; do
    "$run" $c --help >"$dir/help" 2>&1 && grep -q -- '--help' "$dir/help" && [ "$(wc -L <"$dir/help")" -le 140 ] || { bad "run_rwkv $c --help" "$(wc -L <"$dir/help") characters wide"; continue; }
    [[ $("$run" --help) == *"run_rwkv $c "* ]] || bad "run_rwkv --help does not list $c"
done && ok "--help of every command, and of all"

finish
