# Checks of clients: names, outcomes and the table. Sourced by `run`, and again by the shell of each check.
#
# A client is announced with `client NAME VERSION`; each `check` that follows is counted for it. A check is a command or a
# function, which runs in a shell of its own that ends at the first failure, and within a time limit. Programs that make
# several checks themselves print a line for each, which `checks_of` counts: `ok NAME` or `failed NAME: REASON`.

# Seconds that a check may take, unless LIMIT says otherwise.
readonly DEFAULT_LIMIT=120

# client NAME VERSION: begins the checks of a client.
client() {
    current=$1
    clients+=("$1")
    versions[$1]=$2
    echo "== $1 $2"
}

# outcome ok|failed NAME [REASON]: counts one check.
outcome() {
    total[$current]=$((${total[$current]:-0} + 1))
    case $1 in
        ok)
            passed[$current]=$((${passed[$current]:-0} + 1))
            echo "ok      $current: $2"
            ;;
        *)
            failures+=("$current: $2")
            echo "FAILED  $current: $2${3:+: $3}"
            ;;
    esac
}

# check NAME COMMAND...: runs one check; prints what it printed if it fails.
check() {
    local name=$1 log code
    shift
    wanted "$name" || return 0
    log=$work/logs/$current-${name//[^a-zA-Z0-9]/-}.log
    # `timeout` makes a process group of its own, which ends as a whole.
    timeout --kill-after=5 "${LIMIT:-$DEFAULT_LIMIT}" bash -euo pipefail -c 'trap stop_all EXIT; "$@"' check "$@" >"$log" 2>&1 </dev/null
    code=$?
    if ((code == 0)); then
        outcome ok "$name"
    else
        ((code != 124)) || echo "not done after ${LIMIT:-$DEFAULT_LIMIT} s" >>"$log"
        outcome failed "$name" "exit code $code, $log"
        sed 's/^/    | /' "$log" | tail -n 25
    fi
}

# checks_of NAME COMMAND...: runs a program that makes several checks, and counts those that it reports.
checks_of() {
    local name=$1 log code line reported=0
    shift
    log=$work/logs/$current-${name//[^a-zA-Z0-9]/-}.log
    timeout --kill-after=5 "${LIMIT:-600}" "$@" >"$log" 2>"$log.err" </dev/null
    code=$?
    while IFS= read -r line; do
        case $line in
            'ok '*) outcome ok "${line#ok }" ;;
            'failed '*) outcome failed "${line#failed }" ;;
            *) continue ;;
        esac
        reported=$((reported + 1))
    done <"$log"
    # The program ends with 1 if a check failed; anything else, or no report, is a failure of its own.
    if ((code > 1 || reported == 0)); then
        outcome failed "$name" "exit code $code after $reported checks, $log.err"
        tail -n 25 "$log.err" | sed 's/^/    | /'
    fi
}

# wanted NAME: reports whether --only selects a check.
wanted() { [[ -z ${only:-} || "$current: $1" == *"$only"* ]]; }

# --- within checks

# has TEXT...: fails if standard input lacks one of the texts; prints the input.
has() {
    local text part
    text=$(cat)
    printf '%s\n' "$text"
    for part in "$@"; do
        [[ $text == *"$part"* ]] || { echo "not printed: $part"; return 1; }
    done
}

# refused TEXT COMMAND...: a command that must fail, and print the text.
refused() {
    local expected=$1 text
    shift
    if text=$("$@" 2>&1); then
        printf '%s\n' "$text" "was to fail: $*"
        return 1
    fi
    printf '%s\n' "$text" | has "$expected"
}

# equal A B
equal() { [[ $1 == "$2" ]] || { printf 'expected: %s\ngot:      %s\n' "$2" "$1"; return 1; }; }

# eventually SECONDS COMMAND...: repeats a command until it succeeds.
eventually() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@" >"$scratch/eventually.$$" 2>&1; do
        ((SECONDS < deadline)) || { cat "$scratch/eventually.$$"; echo "never succeeded: $*"; return 1; }
        sleep 0.2
    done
}

# stop PROCESS...: ends functions in the background, with the programs that they run.
stop() {
    local process
    for process; do
        pkill -P "$process" 2>/dev/null || true
        kill "$process" 2>/dev/null || true
    done
}

# stop_all: ends what a check left in the background.
stop_all() {
    local processes
    mapfile -t processes < <(jobs -p)
    stop ${processes[@]+"${processes[@]}"}
}

# contains FILE TEXT...: fails if a file lacks one of the texts.
contains() {
    local file=$1 part
    shift
    for part in "$@"; do
        grep -qF -- "$part" "$file" || { cat "$file"; echo "not in the file: $part"; return 1; }
    done
}

# lacks FILE PATTERN: fails if a line of the file matches the extended regular expression, and prints it.
lacks() { if grep -E -- "$2" "$1"; then return 1; fi; }

# --- the table

table() {
    echo '| client | version | checks | passed |'
    echo '| --- | --- | --- | --- |'
    local name
    for name in "${clients[@]}"; do
        echo "| $name | ${versions[$name]} | ${total[$name]:-0} | ${passed[$name]:-0} |"
    done
}

# write_table FILE: puts the table between the markers of a page.
write_table() {
    local begin='<!-- generated: clients -->' end='<!-- end: clients -->' page
    grep -qxF "$begin" "$1" && grep -qxF "$end" "$1" || { echo "$1 lacks the lines $begin and $end" >&2; return 1; }
    page=$(sed "/^$begin\$/q" "$1"; echo; table; echo; sed -n "/^$end\$/,\$p" "$1")
    printf '%s\n' "$page" >"$1"
}
