#!/bin/sh
# Show what is in a spool, with nothing but ls, cat and awk.
#
#     state.sh [SPOOL]        ($SPOOL_DIR, else ./spool)
#
# `spool` says the same and more; this is what to type where it is not installed.
set -eu
spool=${1:-${SPOOL_DIR:-./spool}}
if [ ! -e "$spool/.spool" ]; then
    printf '%s: not a spool: %s\n' "${0##*/}" "$spool" >&2
    exit 1
fi
cd -- "$spool"
minute=$(date -u +%Y%m%d%H%M)

# count FOLDER: how many names are in it, but not those that are never looked at.
count() {
    ls -q -- "$1" 2>/dev/null | awk '!/\.(tmp|why)$/ { n++ } END { print n + 0 }'
}

# A folder of a later minute holds only tasks that are not due yet; this minute's may
# hold some that are due in seconds. Files beside the minutes, or in the root, were
# dropped by other programs and become tasks when a daemon sees them.
printf '%-10s %9s %9s %9s\n' priority waiting later dropped
for priority in $(ls | awk '/^(0|[1-9][0-9]*)$/' | sort -n); do
    [ -d "$priority" ] || continue
    waiting=0 later=0 dropped=0
    for name in "$priority"/*; do
        case ${name##*/} in
            [0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9]T[0-9][0-9][0-9][0-9])
                day_time=${name##*/}
                if [ "${day_time%T*}${day_time#*T}" -gt "$minute" ]; then
                    later=$((later + $(count "$name")))
                else
                    waiting=$((waiting + $(count "$name")))
                fi ;;
            *.tmp) ;;
            *) [ ! -f "$name" ] || dropped=$((dropped + 1)) ;;
        esac
    done
    case $waiting.$later.$dropped in 0.0.0) continue ;; esac
    printf '%-10s %9d %9d %9d\n' "$priority" "$waiting" "$later" "$dropped"
done
dropped=0
for name in *; do
    case $name in *.tmp) continue ;; esac
    [ ! -f "$name" ] || dropped=$((dropped + 1))
done
[ "$dropped" -eq 0 ] || printf '%-10s %9s %9s %9d\n' '(root)' - - "$dropped"

# A name is <due>.<priority>.<attempt>.<id>.<task>.
printf '\nrunning\n'
for folder in running/*/; do
    [ -d "$folder" ] || continue
    worker=${folder#running/}
    ls -q -- "$folder" | awk -F. -v worker="${worker%/}" '
        NF >= 5 {
            id = $4; attempt = $3
            sub(/^[0-9]+\.[0-9]+\.[0-9]+\.[0-9a-f]+\./, "")
            printf "  %s  %s  attempt %d on %s\n", id, $0, attempt + 1, worker
        }'
done

# reason KEY FILE: the first value of this key in a .why file, still as JSON text.
reason() {
    cat -- "$2" 2>/dev/null | awk -v key="\"$1\"" '
        { text = text $0 " " }
        END {
            at = index(text, key)
            if (!at) { print "no reason given"; exit }
            text = substr(text, at + length(key))
            sub(/^ *: */, "", text)
            if (match(text, /^"([^"\\]|\\.)*"/)) text = substr(text, 2, RLENGTH - 2)
            print text
        }'
}

for state in failed corrupt; do
    printf '\n%s\n' "$state"
    case $state in failed) key=error ;; *) key=reason ;; esac
    for why in "$state"/*.why; do
        [ -f "$why" ] || continue
        [ -e "${why%.why}" ] || continue # left over from a crash
        name=${why#"$state"/}
        printf '  %s\n    %s\n' "$(printf '%s' "${name%.why}" | tr -d '[:cntrl:]')" \
            "$(reason "$key" "$why")"
    done
done
