#!/bin/sh
# The agent inside a guest that has a shell and /dev/port, and neither Python nor leave to start a binary.
#
# The same line protocol (frames.py), rules and answers as the compiled agent's (agent.c): nothing is touched before a
# `hello` has proved where we are, a command is carried out once, bytes only, no index at or above 0x38. POSIX sh with
# dd, and od or hexdump; what a guest lacks busybox may have. The checksum is made by the shell itself, so that the only
# programs between two accesses are the two that make them.
set -fu
LC_ALL=C PATH=/sbin:/usr/sbin:/bin:/usr/bin:/usr/local/sbin:/usr/local/bin
export LC_ALL PATH

version=1
port=/dev/port cpuid=/dev/cpu/0/cpuid cpuinfo=/proc/cpuinfo hsm=/dev/acrn_hsm lockdown=/sys/kernel/security/lockdown
timers=/proc/timer_list uptime=/proc/uptime
index_limit=56 most_steps=1024 most_pause=600000000 # 0x38, and microseconds
drivers='/sys/bus/pnp/drivers/rtc_cmos /sys/bus/platform/drivers/rtc_cmos'
daemons=' chronyd ntpd openntpd ntpsec systemd-timesyn ptp4l phc2sys timemaster sntp ntp-daemon htpdate '
ascii=' !"#$%&'\''()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\]^_`abcdefghijklmnopqrstuvwxyz{|}~'
carriage_return=$(printf '\r') line_end='
'
four='????' hundred=$four$four$four$four$four
hundred=$hundred$hundred$hundred$hundred$hundred
part=$hundred$hundred$hundred$hundred

for program in cat date dd dmesg grep id mount od printf rm sleep stty sync umount uname modprobe poweroff; do
    command -v $program >/dev/null 2>&1 || eval "$program() { busybox $program \"\$@\"; }"
done

# ---- the line protocol ----------------------------------------------------------------------------------------------

checksum() { # checksum TEXT: its CRC-32 in $crc
    crc=4294967295 left=$1
    while [ -n "$left" ]; do
        case $left in
        ????????????????*) tail=${left#????????????????} && piece=${left%"$tail"} && left=$tail ;;
        *) piece=$left && left= ;;
        esac
        while [ -n "$piece" ]; do
            tail=${piece#?}
            char=${piece%"$tail"}
            piece=$tail
            before=${ascii%%"$char"*}
            crc=$((crc ^ (32 + ${#before})))
            crc=$((crc >> 1 ^ (3988292384 & -(crc & 1)))) crc=$((crc >> 1 ^ (3988292384 & -(crc & 1))))
            crc=$((crc >> 1 ^ (3988292384 & -(crc & 1)))) crc=$((crc >> 1 ^ (3988292384 & -(crc & 1))))
            crc=$((crc >> 1 ^ (3988292384 & -(crc & 1)))) crc=$((crc >> 1 ^ (3988292384 & -(crc & 1))))
            crc=$((crc >> 1 ^ (3988292384 & -(crc & 1)))) crc=$((crc >> 1 ^ (3988292384 & -(crc & 1))))
        done
    done
    crc=$((crc ^ 4294967295))
}

send() { # send SEQUENCE PAYLOAD: in numbered, checksummed parts
    parts=$(((${#2} + 399) / 400)) number=1 rest=$2
    if [ $parts = 0 ]; then parts=1; fi
    while [ $number -le $parts ]; do
        piece_of=$rest
        if [ ${#rest} -gt 400 ]; then
            rest=${rest#$part}
            piece_of=${piece_of%"$rest"}
        fi
        body="$1.$number/$parts $piece_of"
        checksum "$body"
        printf '@<%s*%08x\r\n' "$body" "$crc"
        number=$((number + 1))
    done
}

last=0 answer='' afterwards='' proved=''

take_line() { # a repeated number is answered from memory, never carried out again; only `hello` may go back in number
    case $1 in
    '' | *'@<'*) return ;;
    *'@>'*' '*'*'????????) ;;
    *) send 0 'no damaged' && return ;;
    esac
    frame=${1##*@>}
    check=${frame##*\*} frame=${frame%\**}
    sequence=${frame%% *} payload=${frame#* }
    case $check:$sequence in
    *[!0-9a-f]*:* | ?????????*:* | *:*[!0-9]* | *: | *:???????????????????*) send 0 'no damaged' && return ;;
    esac
    checksum "$frame"
    if [ $crc -ne $((0x$check)) ]; then send 0 'no damaged' && return; fi
    case $payload in hello\ *) greets=yes ;; *) greets='' ;; esac
    if [ "$sequence" -eq 0 ] || { [ "$sequence" -lt "$last" ] && [ -z "$greets" ]; }; then
        send 0 "no sequence the last was $last"
        return
    fi
    if [ "$sequence" -ne "$last" ]; then
        last=$sequence answer=
        execute $payload
    fi
    send "$sequence" "$answer"
    if [ -n "$afterwards" ]; then
        command=$afterwards afterwards=
        $command
    fi
}

execute() { # execute NAME NONCE WORDS...: leaves what is to be answered in $answer
    name=${1-} theirs=${2-}
    case $name in
    hello | info | time | bye) harmless=yes ;;
    load | run | adopt | hwclock | clock | noise | panic | reboot | poweroff) harmless='' ;;
    *) answer="no command '$name' is unknown" && return ;;
    esac
    if [ -z "$nonce" ] || [ "$theirs" != "$nonce" ]; then
        answer="no nonce the command's is not this guest's own"
    elif [ -z "$harmless$proved" ]; then
        answer='no hello has been said'
    else
        shift 2
        do_$name "$@"
    fi
}

token() { # token TEXT: free text as one word in $word; what could be taken for framing or for a space becomes %XX
    left=$1 word=
    while [ -n "$left" ]; do
        tail=${left#?}
        char=${left%"$tail"}
        left=$tail
        case $char in
        [0-9A-Za-z._,:/+-]) word=$word$char ;;
        [' '-'~'] | "$line_end") word=$word%$(printf %02x "'$char") ;;
        *) word="$word?" ;;
        esac
    done
}
