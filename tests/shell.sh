# shell.sh: what cli.sh and run_cli.sh share; sourced by them. They run in the repository root and end with `finish`.
set -uo pipefail
cd "$(dirname "$0")/.."
passed=0 failed=0
dir=$(mktemp -d) && trap 'rm -rf "$dir"' EXIT
# shellcheck disable=SC2034  # used by those that source this
bin=${BIN-build/cpu-fp32} tools=build/tools
ok() { echo "ok    $1"; passed=$((passed + 1)); }
bad() { echo "FAIL  $1"; [ $# -lt 2 ] || printf '      %s\n' "$2"; failed=$((failed + 1)); }
# fails CODE WORDS COMMAND...: it must exit with CODE; its last line on stderr must be its only error, with these WORDS
fails() {
    local code=$1 words=$2 rc
    shift 2
    timeout 60 "$@" >"$dir/stdout" 2>"$dir/stderr" </dev/null
    rc=$?
    if [ $rc -eq "$code" ] && [[ $(tail -1 "$dir/stderr") == error:*"$words"* ]] && [ "$(grep -c '^error' "$dir/stderr")" -eq 1 ]; then ok "refused: $words"
    else bad "should be refused: ${*/#$dir\//}" "exit code $rc, it said: $(tail -1 "$dir/stderr")"; fi
}
says() { if [[ $2 == *"$3"* ]]; then ok "$1"; else bad "$1" "it said: $2"; fi; }  # NAME TEXT WORDS
same() { if [ "$2" = "$3" ]; then ok "$1"; else bad "$1" "'${2:0:100}' and '${3:0:100}'"; fi; }  # NAME TEXT TEXT
finish() { echo "$passed passed, $failed failed"; [ "$failed" -eq 0 ]; }
