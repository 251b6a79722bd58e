#!/bin/sh
# Put a task into a spool with nothing but sh, printf and mv. No Python is started.
#
#     enqueue.sh [-d SPOOL] [-p PRIORITY] [-a AT] [-b FILE] TASK [KEY=TEXT | KEY:=JSON]...
#
#     -d SPOOL     the spool ($SPOOL_DIR, else ./spool)
#     -p PRIORITY  a whole number, smaller is more urgent (5)
#     -a AT        when it is due: +90s, +5m, +2h, 2026-11-20T21:01:00Z or an epoch
#                  number (at once)
#     -b FILE      the body: any bytes; - is standard input
#
# KEY=TEXT gives the text as it is: quotes, spaces, = and any UTF-8 stand for themselves.
# KEY:=JSON gives a number, true, a list … Exit status: 0 put, 1 not put, 2 usage.
#
# To use the functions in a script of yours: ENQUEUE_LIB=1 . ./enqueue.sh, then
# put_task TASK …, with the settings in the variables spool, priority, at and body.
# The format is in docs/format.md, sections 2 and 4.

newline='
'
return_=$(printf '\r')
put_number=0

fail() {
    printf '%s: %s\n' "${0##*/}" "$1" >&2
    return "${2:-1}"
}

# json_text TEXT: print it as a JSON string.
json_text() {
    printf '%s\n' "$1" | LC_ALL=C awk '
        BEGIN {
            for (i = 1; i < 32; i++) code[sprintf("%c", i)] = sprintf("\\u%04x", i)
            code["\""] = "\\\""
            code["\\"] = "\\\\"
            printf "\""
        }
        {
            if (NR > 1) printf "\\n"
            for (i = 1; i <= length($0); i++) {
                c = substr($0, i, 1)
                printf "%s", (c in code) ? code[c] : c
            }
        }
        END { printf "\"" }'
}

# pair KEY=TEXT | KEY:=JSON: print it as one line of a task file.
pair() {
    pair_key=${1%%=*} pair_value=${1#*=}
    case $1 in
        =* | :=*) fail "no key: $1" 2; return ;;
        *=*) ;;
        *) fail "not KEY=VALUE: $1" 2; return ;;
    esac
    case $pair_key in
        *"$newline"*) fail "a newline in a key" 2; return ;;
        *:)
            # In JSON a newline can only stand between two parts, so a space will do.
            pair_value=$(printf '%s' "$pair_value" | tr '\r\n' '  ')
            [ -n "$pair_value" ] || { fail "no JSON: $1" 2; return; } ;;
        *)
            # A line cannot hold a newline, and loses a carriage return at its end.
            case $pair_value in
                *"$newline"* | *"$return_")
                    pair_key=$pair_key:
                    pair_value=$(json_text "$pair_value") ;;
            esac ;;
    esac
    printf '%s=%s\n' "$pair_key" "$pair_value"
}

# task_file TASK PAIR...: print the whole task file.
task_file() {
    pair "task=$1" || return
    shift
    [ -z "${at-}" ] || pair "at=$at" || return
    for pair_ in "$@"; do
        pair "$pair_" || return
    done
    case ${body-} in
        '') ;;
        *) printf '\n' && cat -- "$body" ;;
    esac
}

# put_task TASK PAIR...: put it. It is there, whole, once this has returned 0.
put_task() {
    spool=${spool:-${SPOOL_DIR:-./spool}} priority=${priority:-5}
    [ -e "$spool/.spool" ] || { fail "not a spool: $spool"; return; }
    case $priority in
        0) ;;
        '' | 0* | *[!0-9]* | ???????*) fail "not a priority: $priority" 2; return ;;
    esac
    [ -d "$spool/$priority" ] || mkdir -m 700 "$spool/$priority" || return

    # A name that no other program ever uses, since mv replaces without a word: this
    # host, this second, this process, and a number of our own.
    put_number=$((put_number + 1))
    put_name=$(uname -n).$(date +%s).$$.$put_number

    if (umask 077 && task_file "$@" >"$spool/tmp/$put_name"); then
        mv -- "$spool/tmp/$put_name" "$spool/$priority/$put_name"
    else
        put_status=$?
        rm -f -- "$spool/tmp/$put_name"
        return "$put_status"
    fi
}

usage() {
    sed -n '2,13s/^# \{0,1\}//p' "$0" >&2
    exit 2
}

main() {
    spool='' priority='' at='' body=''
    while getopts d:p:a:b: option; do
        case $option in
            d) spool=$OPTARG ;;
            p) priority=$OPTARG ;;
            a) at=$OPTARG ;;
            b) body=$OPTARG ;;
            *) usage ;;
        esac
    done
    shift $((OPTIND - 1))
    [ $# -gt 0 ] || usage
    put_task "$@"
}

[ -n "${ENQUEUE_LIB-}" ] || main "$@"
