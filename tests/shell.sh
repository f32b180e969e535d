# shell.sh: what cli.sh and run_cli.sh share; sourced by them. They run in the repository root and end with `finish`.
set -uo pipefail
cd "$(dirname "$0")/.."
passed=0 failed=0
dir=$(mktemp -d) && trap 'rm -rf "$dir"' EXIT
# shellcheck disable=SC2034  # used by those that source this
bin=${BIN-build/cpu-fp32} tools=build/tools
ok() { echo "ok    $1"; passed=$((passed + 1)); }
bad() { echo "FAIL  $1"; [ $# -lt 2 ] || printf '      %s\n' "$2"; failed=$((failed + 1)); }
# fails CODE WORDS COMMAND...: it must exit with CODE and say WORDS in one line on stderr that begins with "error:", the
# only one but for warnings and run_rwkv's description of the model it has loaded
fails() {
    local code=$1 words=$2 rc said
    shift 2
    timeout 60 "$@" >"$dir/stdout" 2>"$dir/stderr" </dev/null
    rc=$?
    said=$(grep -vE '^warning|: RWKV-[0-9.]+ L[0-9]+ C[0-9]+ .* free$' "$dir/stderr")
    if [ $rc -eq "$code" ] && [[ $said == error:*"$words"* ]] && [ "$(wc -l <<<"$said")" -eq 1 ]; then ok "refused: $words"
    else bad "should be refused: ${*/#$dir\//}" "exit code $rc, it said: $said"; fi
}
says() { if [[ $2 == *"$3"* ]]; then ok "$1"; else bad "$1" "it said: $2"; fi; }  # NAME TEXT WORDS
same() { if [ "$2" = "$3" ]; then ok "$1"; else bad "$1" "'${2:0:100}' and '${3:0:100}'"; fi; }  # NAME TEXT TEXT
finish() { echo "$passed passed, $failed failed"; [ "$failed" -eq 0 ]; }
