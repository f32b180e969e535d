#!/bin/sh
# Fetches texts and vocabularies into data/ and prints the ./prepare command to go on with.
#     sh data_prep/download.sh tinyshakespeare
# A file is checked (sha256, where its sum is known) before it gets its name: a failed download leaves nothing behind.
set -eu

list() {
    cat << 'END'
texts         tinyshakespeare   1.1 MB  Shakespeare's plays, one file
              tinystories       2.2 GB  short stories for small children (CDLA-Sharing-1.0)
              enwik8            100 MB  the start of the English Wikipedia of 2006, with its markup
              simplebooks-92    400 MB  books in simple English
              wikitext-103      540 MB  good and featured articles of the English Wikipedia (CC BY-SA)
vocabularies  world                     RWKV World, for RWKV-5 to 7 and RWKV-4 World
              neox                      GPT-NeoX 20B, for the Pile models of RWKV-4 and 7
              gpt2                      GPT-2
END
}
stop() { echo "error: $*" >&2; exit 1; }
need() { command -v "$1" > /dev/null || stop "$1 is missing: install it, or fetch $2 by hand"; }

part=  # what is being written
trap 'rm -f ${part:+"$part"}' EXIT
trap 'exit 1' INT TERM

# checked FILE SHA256       ("-": the sum is not known); sets `sum`
checked() {
    [ "$2" != - ] || return 0
    if command -v sha256sum > /dev/null; then sum=$(sha256sum < "$1"); else need shasum "$1"; sum=$(shasum -a 256 < "$1"); fi
    sum=${sum%% *}
    [ "$sum" = "$2" ]
}
# fetch FILE SHA256 URL
fetch() {
    if [ -s "$1" ]; then
        checked "$1" "$2" || stop "$1 is there already, but is not $3 (its sha256 is $sum, not $2): remove it to fetch that"
        echo "$1 is there already"
        return
    fi
    need curl "$3"
    mkdir -p "$(dirname "$1")"
    part="$1.part"
    curl -f -L --retry 3 --progress-bar -o "$part" "$3" || stop "cannot download $3 (see above); nothing was kept"
    checked "$part" "$2" || stop "$3 has the sha256 $sum, not $2: it was changed or damaged on the way; nothing was kept"
    mv "$part" "$1"
}
# unpack ZIP MEMBER FILE
unpack() {
    [ -s "$3" ] && return
    need unzip "$1"
    part="$3.part"
    unzip -p "$1" "$2" > "$part" || stop "$1 has no $2, or is damaged: remove it and try again"
    mv "$part" "$3"
}
# stories TXT JSONL     stories that end in a line <|endoftext|>, as one line of JSON each
stories() {
    [ -s "$2" ] && return
    part="$2.part"
    tr -d '\000-\010\013-\037' < "$1" | LC_ALL=C sed 's/[\\"]/\\&/g' | LC_ALL=C awk '
        /^<\|endoftext\|>/ { if (text != "") print "{\"text\": \"" text "\"}"; text = ""; next }
        { gsub(/\t/, "\\t"); text = text (text == "" ? "" : "\\n") $0 }
        END { if (text != "") print "{\"text\": \"" text "\"}" }' > "$part"
    mv "$part" "$2"
}
next() { echo "next:  $*"; }

github=https://raw.githubusercontent.com
case "${1:-}" in
tinyshakespeare)
    fetch data/tinyshakespeare.txt 86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed $github/karpathy/char-rnn/master/data/tinyshakespeare/input.txt
    next ./prepare data/tinyshakespeare.txt --tokenizer char --out data/shakespeare ;;
tinystories)
    fetch data/tinystories.txt - https://huggingface.co/datasets/roneneldan/TinyStories/resolve/main/TinyStoriesV2-GPT4-train.txt
    stories data/tinystories.txt data/tinystories.jsonl
    next ./prepare data/tinystories.jsonl --tokenizer world --val 0.01 --out data/stories ;;
enwik8)
    fetch data/enwik8.zip 547994d9980ebed1288380d652999f38a14fe291a6247c157c3d33d4932534bc http://mattmahoney.net/dc/enwik8.zip
    unpack data/enwik8.zip enwik8 data/enwik8.txt
    next ./prepare data/enwik8.txt --tokenizer byte --out data/enwik8 ;;
simplebooks-92)
    fetch data/simplebooks.zip - https://dldata-public.s3.us-east-2.amazonaws.com/simplebooks.zip
    unpack data/simplebooks.zip simplebooks/simplebooks-92-raw/train.txt data/simplebooks-92.txt
    next ./prepare data/simplebooks-92.txt --tokenizer world --val 0.01 --out data/simplebooks ;;
wikitext-103)
    fetch data/wikitext-103.zip - https://wikitext.smerity.com/wikitext-103-raw-v1.zip
    unpack data/wikitext-103.zip wikitext-103-raw/wiki.train.raw data/wikitext-103.txt
    next "./prepare data/wikitext-103.txt --tokenizer char --keep 'a-zA-Z \\n.,' --val 0.01 --out data/wikitext" ;;
world)
    fetch data/rwkv_vocab_v20230424.txt e6dee3d4e31b4d5c40ac99508ac6c701ceef4bed681bf2167ce9a908552bca89 $github/BlinkDL/RWKV-LM/main/RWKV-v7/rwkv_vocab_v20230424.txt
    next "./run_rwkv generate --model MODEL.pth finds it here; to train: ./prepare TEXT.txt --tokenizer world --out data/NAME" ;;
neox)
    fetch data/20B_tokenizer.json 56ac4821e129d2c520fdaba60abd920fa852ada51b45c0dd52bbb6bd8c985ade $github/BlinkDL/ChatRWKV/main/20B_tokenizer.json
    next "./run_rwkv generate --model MODEL.pth finds it here; to train: ./prepare TEXT.txt --tokenizer neox --out data/NAME" ;;
gpt2)
    fetch data/gpt2/encoder.json 196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783 https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/encoder.json
    fetch data/gpt2/vocab.bpe 1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5 https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/vocab.bpe
    next ./prepare TEXT.txt --tokenizer gpt2 --out data/NAME ;;
-h | --help)
    echo "sh data_prep/download.sh NAME fetches one of"
    list ;;
*)
    [ $# = 0 ] || echo "error: there is no '$1' to download" >&2
    echo "sh data_prep/download.sh NAME fetches one of" >&2
    list >&2
    exit 2 ;;
esac
