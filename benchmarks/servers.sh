#!/bin/sh
# Install the servers that some peers need, from Debian's packages, where that can be
# done. None of them is started: each measure starts its own.
set -u

missing() {
    for program in redis-server beanstalkd; do
        command -v "$program" >/dev/null || echo "$program"
    done
}

install() {
    # A package starts its service unless this refuses.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        trap 'rm -f "$policy"' EXIT
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod +x "$policy"
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq &&
        apt-get install -y -qq --no-install-recommends \
            -o DPkg::Lock::Timeout=60 "$@" >/dev/null
}

if [ -n "$(missing)" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    # shellcheck disable=SC2046  # one word each
    install $(missing)
fi
for program in $(missing); do
    echo "$program is not installed: it is not measured" >&2
done
