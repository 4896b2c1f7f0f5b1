# ---- the clock and the ports ----------------------------------------------------------------------------------------

# The kernel's list of timers begins with its clock to the nanosecond; /proc/uptime has hundredths of a second.
coarse=0 grain=1 clock=timer_list
now() { # this guest's monotonic clock in $ns
    if [ $coarse = 0 ]; then
        { read -r _ && read -r _ && read -r _ _ ns _; } <$timers
    else
        read -r up _ <$uptime
        ns=$((${up%.*} * 1000000000 + (1${up#*.} - 100) * 10000000))
    fi
}

choose_clock() {
    ns=''
    if [ -r $timers ]; then now 2>/dev/null; fi
    case $ns in
    '' | *[!0-9]*) coarse=10000000 grain=$coarse clock=uptime ;;
    esac
}

measure_grain() { # how long an access takes, by one that goes nowhere
    now && before=$ns
    printf '\0' | dd of=/dev/null bs=1 count=1 2>/dev/null
    now && grain=$((ns - before + coarse))
}

do_time() {
    now
    first=$ns looks=0
    while [ $coarse != 0 ] && [ $ns = $first ] && [ $looks -lt 100000 ]; do # it is known best when it has just changed
        now && looks=$((looks + 1))
    done
    answer="ok ns=$ns grain_ns=$((coarse + 1))"
}

parse_step() { # parse_step WORD: as it is carried out, in $step; false: it is none
    case $1 in
    p | p*[!0-9]* | p???????????*) return 1 ;;
    p*)
        [ "${1#p}" -le $most_pause ] && step=$1
        return
        ;;
    w[0-9a-f][0-9a-f][0-9a-f][0-9a-f] | r[0-9a-f][0-9a-f]) ;;
    *) return 1 ;;
    esac
    digits=${1#?}
    tail=${digits#??}
    index=$((0x${digits%"$tail"}))
    if [ $index -ge $index_limit ]; then return 2; fi
    to_octal $index
    step=${1%"${1#?}"}:$index:$digits
    if [ -n "$tail" ]; then
        value=$((0x$tail)) octal=$digits
        to_octal $value
        step=w:$index:$octal$digits:$value
    fi
}

steps='' count=0
do_load() {
    for word in "$@"; do
        if [ $count = $most_steps ]; then
            answer="no steps there are more than $most_steps"
        else
            parse_step "$word"
            case $? in
            0) steps="$steps $step" count=$((count + 1)) ;;
            2) answer="no index 0x${digits%"$tail"} is not one of the RTC's own bytes" ;;
            *) answer="no step '$word' is none" ;;
            esac
        fi
        case $answer in no*) steps='' count=0 && return 1 ;; esac
    done
    answer=ok
}

wait_until() {
    while now && [ $ns -lt $1 ]; do
        remaining=$((($1 - ns) / 1000000))
        if [ $remaining -gt 1100 ]; then
            sleep $(((remaining - 100) / 1000))
        elif [ $remaining -gt 60 ]; then
            milliseconds=$((1000 + remaining - 50))
            sleep 0.${milliseconds#1} 2>/dev/null
        fi
    done
}

do_run() { # COUNT STEP...: reports each access
    wanted=${1-none} report='' longest=0
    shift
    do_load "$@" || return
    if [ "$wanted" != $count ]; then
        answer="no count there are $count steps" steps='' count=0
        return
    fi
    now && since=$ns
    for step in $steps; do
        case $step in
        p*) since=$((since + ${step#p} * 1000)) && wait_until $since && continue ;;
        esac
        index=${step#?:} && value=${step##*:} && octal=${index#*:} && index=${index%%:*} && octal=${octal%%:*}
        now && since=$ns
        case $step in
        w*) printf "$octal" | dd of="$port" bs=2 seek=56 count=1 conv=notrunc 2>/dev/null || break ;;
        r*)
            printf "$octal" | dd of="$port" bs=1 seek=112 count=1 conv=notrunc 2>/dev/null || break
            value=$(dd if="$port" bs=1 skip=113 count=1 2>/dev/null | dump)
            value=$((0x${value#"${value%%[! ]*}"}))
            ;;
        esac
        now
        if [ $((ns - since + coarse)) -gt $longest ]; then longest=$((ns - since + coarse)); fi
        report="$report ${step%%:*} $index $value $since"
    done
    steps='' count=0
    answer="ok g$longest"
    if [ -n "$report" ]; then answer=$answer$(printf ' %s%02x%02x=%s' $report); fi
}
