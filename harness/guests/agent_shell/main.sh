# ---- other commands -------------------------------------------------------------------------------------------------

do_adopt() {
    case ${1-} in
    *[!0-9a-f]* | '') answer="no word '${1-}' is no nonce" ;;
    ????????????????*) nonce=$1 answer=ok ;;
    *) answer="no word '$1' is no nonce" ;;
    esac
}

do_hwclock() { # `hwclock --systohc --utc` through Linux's own driver, which is bound for that long
    lend_rtc
    set +f
    for device in /sys/class/rtc/*; do :; done
    set -f
    device=/dev/${device##*/}
    now && start=$ns
    program=
    for path in /usr/bin/hwclock /bin/hwclock /usr/sbin/hwclock /sbin/hwclock; do # by its path: a busybox prefers its own
        if [ -x $path ] && ! [ $path -ef /bin/busybox ] && ! [ $path -ef /usr/bin/busybox ]; then program=$path; fi
    done
    if [ -n "$program" ]; then
        output=$($program -w -u -f "$device" --noadjfile 2>&1)
    else
        output=$(busybox hwclock -w -u -f "$device" 2>&1)
    fi
    status=$?
    now && finish=$ns
    token "$output"
    free_rtc && answer="ok exit=$status start_ns=$start end_ns=$finish output=$word"
}

do_clock() {
    case ${1-} in
    '' | *[!0-9]*) false ;;
    *) date -s "@$1" >/dev/null 2>&1 ;;
    esac && answer=ok || answer="no clock cannot be set to '${1-}'"
}

do_noise() {
    case ${1-} in '' | *[!0-9]*) noises=0 ;; *) noises=$1 ;; esac
    (while [ $noises -gt 0 ]; do
        echo '<0>noise: the kernel printed this line' >/dev/kmsg
        noises=$((noises - 1))
    done) &
    answer=ok
}

do_bye() { answer=ok afterwards=leave; }
do_panic() { answer=ok afterwards='key c'; }
do_reboot() { answer=ok afterwards='key s b'; }
do_poweroff() { answer=ok afterwards=turn_off; }

key() {
    for letter in "$@"; do echo $letter >/proc/sysrq-trigger; done
}

turn_off() { # in order, by the init that there is, and with hwclock still held off; else short
    trap 'exit 0' HUP TERM
    if [ $hwclock != busybox ] && poweroff >/dev/null 2>&1; then
        sleep 90 &
        wait
    fi
    sync
    key u o
    exit 0
}

leave() { # all as it was found, unless the system is on its way down: then its end would write the RTC
    trap '' HUP TERM
    kill $ready 2>/dev/null
    if ! is_stopping; then give_back; fi
    if [ -n "$settings" ]; then stty "$settings" 2>/dev/null; fi
    exit 0
}

if [ $((1 << 40)) != 1099511627776 ]; then
    echo 'the shell of this guest counts to less than 64 bits: it cannot be an agent' >&2
    exit 3
fi
if [ $# = 0 ]; then set -- $(cat /proc/cmdline); fi
nonce=''
for word in "$@"; do
    case $word in rtc.nonce=*) nonce=${word#rtc.nonce=} ;; esac
done
settings=''
if [ -t 0 ]; then
    settings=$(stty -g 2>/dev/null)
    stty -echo -isig -ixon icanon icrnl 2>/dev/null
fi
choose_clock
signature=''
(while :; do
    send 0 "ready agent=$version"
    sleep 1
done) &
ready=$!
trap leave HUP TERM
while IFS= read -r line; do
    if [ -n "$ready" ]; then kill $ready 2>/dev/null && wait $ready 2>/dev/null && ready=''; ready=''; fi
    take_line "${line%"$carriage_return"}"
done
leave
